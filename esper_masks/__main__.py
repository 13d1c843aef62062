import sys

from esper_masks.cli.entry import main

sys.exit(main())
