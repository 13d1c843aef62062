"""Words and numbers with a meaning of their own in rules."""

STAGE, AGE = "stage", "age"  # the features that every slot has
SLOT = "slot"  # the head whose choices are the engine's slots
OP = "op"  # the head whose choices are the ops
MAX_STAGE = 254  # a stage and the "no stage" row fit one byte
MAX_OPS = 62  # bits of the widest word, int64, less its sign and one to spare
MAX_HEADS = 62  # a fault word has a bit for each, and one more
INT32 = range(-(2**31), 2**31)
# a switch of that name could not be set
ENGINE_ARGUMENTS = ("rules", "slot_ids", "enabled", "max_seeds", "kinds", "device")
BY_SLOT = "_by_slot"  # behind the name of a head: its mask in each slot
SLOT_BY_OP = "slot_by_op"  # the mask of each op in each slot
MASK_NAMES = (SLOT_BY_OP, "joint")  # what masks give beside heads
