"""Files that version 0.1.0 wrote, which every later version reads, and the rules that they are of."""
