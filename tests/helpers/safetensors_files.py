"""Safetensors files, written byte by byte."""

import json
import struct


def write(path, entries: dict[str, tuple[str, list[int], bytes]], metadata=None):
    """Write a safetensors file byte by byte, with dtypes that NumPy lacks; return its path."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, content) in entries.items():
        header[name] = {
            "dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)],
        }  # fmt: skip
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path
