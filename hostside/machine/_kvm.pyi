from typing import Any

# Made by cffi from core/cdef*.h, which has the signatures; nothing outside this room uses it.
ffi: Any
lib: Any
