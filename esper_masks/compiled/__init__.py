"""The one room that knows torch's compiler.

bytecode        Python code for another process
kept            compiled code in files, for the next process
methods         a method, compiled and kept for each kind of call; and as CUDA graphs
torch_kept      compiled code as bytes
torch_private   torch's private names, each with a way without
"""
