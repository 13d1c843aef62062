"""Words and numbers with a meaning of their own in rules."""

STAGE, AGE = "stage", "age"  # the features that every slot has
SLOT = "slot"  # the head whose choices are the engine's slots
OP = "op"  # the head whose choices are the ops
MAX_STAGE = 254  # a stage and the "no stage" row fit one byte
WORD_BITS = 31  # int32 without its sign
INT32 = range(-(2**31), 2**31)
ENGINE_ARGUMENTS = ("rules", "slot_ids", "enabled", "max_seeds", "device")  # a switch of that name could not be set
MASK_NAMES = ("slot_by_op", "joint")  # what masks give beside heads
