# Makes calls of the system below a folder, one line of JSON each, and says "ok" or what went wrong after each.

import ctypes
import json
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def opened(path, flags, work):
    file = os.open(path, flags, 0o644)
    try:
        work(file)
    finally:
        os.close(file)


def write(path, offset, text):
    opened(path, os.O_RDWR, lambda file: os.pwrite(file, text.encode('latin1'), offset))


# Starts to write the data of a file, and may wait for it. Neither its size nor its names.
def push(path, flags):
    if os.path.isfile(path):
        opened(path, os.O_RDWR, lambda file: libc.sync_file_range(file, 0, 0, flags))


# Makes the journal commit, by an fsync of another file.
def commit(path):
    def work(file):
        os.write(file, b'n')
        os.fsync(file)

    opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, work)


CALLS = {
    'create': lambda path: opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, lambda _: None),
    'write': write,
    'truncate': lambda path, size: opened(path, os.O_RDWR, lambda file: os.ftruncate(file, size)),
    'fsync': lambda path: opened(path, os.O_RDONLY, os.fsync),
    'fdatasync': lambda path: opened(path, os.O_RDONLY, os.fdatasync),
    'sync': lambda path: opened(path, os.O_RDONLY, libc.syncfs),
    'rename': os.rename,
    'link': os.link,
    'symlink': os.symlink,
    'unlink': os.unlink,
    'mkdir': os.mkdir,
    'rmdir': os.rmdir,
    'push': push,
    'commit': commit,
}

os.chdir(sys.argv[1])
for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        CALLS[name](*arguments)
        print('ok', flush=True)
    except OSError as error:
        print(f'{name} {arguments}: {error}', flush=True)
