"""The arithmetic between forward and backward: what it means (`reference`), and on a GPU.

numbers.cuh, rows.cuh   a row of logits, for nvcc and a host compiler
burst.cuh, layout.py    what a burst keeps on the device, in C++ and in NumPy
*.cu                    the kernels
geometry.py             threads a row
compiler.py             sources to machine code, kept on disk
device.py               the kernels as the engines call them
"""
