import sys

from esper_masks.cli import main

sys.exit(main())
