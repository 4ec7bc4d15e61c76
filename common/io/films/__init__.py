"""Films, read and written by FFmpeg (PyAV), each in a process of its own.

OpenCV and PyAV each carry their own libavdevice, whose Objective-C classes may exist once in a
process of macOS. So only `decode`, `encode`, `finish` and `hdr` import PyAV, and only children
import those.
"""
