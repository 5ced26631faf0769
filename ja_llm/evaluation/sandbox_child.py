"""Runs one program in namespaces of its own: the process that `sandbox.py` starts. Standard library only, imports nothing of ours.

Reads a JSON object from standard input: {"program", "token", "root" (an empty folder), "libraries" (paths that the program's Python
needs), "python", "limits", "protected"}. Writes one JSON line to standard output: {"status": "passed" | "failed" | "timed out" |
"out of memory" | "no sandbox", "detail"}.

Processes: this one stays outside and writes the maps of user ids; its child enters new user, mount, pid, network, ipc, uts and cgroup
namespaces; the grandchild is process 1 in there, builds a file system of a small tmpfs and read-only libraries, gives up every
capability and the system calls that keep memory outside of any process, and waits for the program, which is process 2. When process 1
ends, the kernel ends all that is left.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time

_CLONE_ALL = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_SYS_MOUNT_SETATTR = 442  # the same on every architecture
_NOBODY = 65534
_RESULT, _TOKEN = 3, 4  # the program's file descriptors

# Architecture (linux/audit.h) and numbers (asm/unistd.h) of mmap and of the calls that are refused: shmget, semget, msgget, memfd_create,
# memfd_secret, io_uring_setup. What they make lives on when no process has it mapped, so no count of processes' memory has it.
_CALLS = {
    "x86_64": (0xC000003E, 9, (29, 64, 68, 319, 447, 425)),
    "aarch64": (0xC00000B7, 222, (194, 190, 186, 279, 447, 425)),
}
_OTHER_TABLE = 0x40000000  # from here on x86_64 has the x32 calls, with numbers of their own
_MAP_SHARED_ANONYMOUS = 0x21

_libc = ctypes.CDLL(None, use_errno=True)

# The token is read only after the program's last line, so an early exit leaves nothing that looks like success.
HARNESS = """
import os as _os
def _run():
    with open("program.py", encoding="utf-8") as file:
        source = file.read()
    try:
        exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
    except MemoryError:
        return b"out of memory a process reached the limit of its address space"
    except BaseException as error:
        return ("failed %s: %s" % (type(error).__name__, error))[:300].encode("utf-8", "replace")
    return b"passed " + _os.read(4, 64)
_os.write(3, _run())
_os._exit(0)
"""


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()), f"mount {target}"
    )


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def _read_only(path: str) -> None:
    """With all mounts below it: a plain remount would leave those writable."""
    attributes = _MountAttributes(set=_MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR), _AT_FDCWD, path.encode(), _AT_RECURSIVE, ctypes.byref(attributes), size
    )
    _check(result, f"mount_setattr {path}")


def _file_system(job: dict) -> None:
    """A tmpfs with the program, and Python's own files in it, read-only; nothing else of the host is left."""
    root = job["root"]
    _mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={job['limits']['disk']},nr_inodes=1024,mode=755")
    for path in job["libraries"]:
        target = root + path
        if os.path.islink(path):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
            continue
        os.makedirs(target, exist_ok=True)
        _mount(path, target, "none", _MS_BIND | _MS_REC)
        _read_only(target)
    os.mkdir(root + "/work", 0o777)
    os.chmod(root + "/work", 0o777)
    _write_program(root + "/work", job["program"])
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/work")


def _write_program(folder: str, program: str) -> None:
    with open(os.path.join(folder, "program.py"), "w", encoding="utf-8", errors="replace") as file:
        file.write(program)


def _no_more_rights() -> None:
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break
    if os.getuid() != _NOBODY:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")
    _no_hidden_memory()


def _no_hidden_memory() -> None:
    """Refuse System V's objects, files in memory and shared anonymous mappings, here and in all that stems from here (seccomp(2)).

    Raises:
      OSError: the machine's system calls are not known here, or the kernel has no such filter.
    """
    if platform.machine() not in _CALLS:
        raise OSError(f"the system calls of {platform.machine()} are not known, only those of {' and '.join(_CALLS)}")
    program = _call_filter(*_CALLS[platform.machine()])
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    filtered = Program(len(program), ctypes.addressof(code))
    _check(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(filtered), 0, 0), "seccomp filter")


def _call_filter(architecture: int, mmap: int, refused: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Classic BPF over struct seccomp_data (call number at byte 0, architecture at 4, argument n at 16 + 8 n): (code, jt, jf, k)."""
    load, equal, at_least, mask, give = 0x20, 0x15, 0x35, 0x54, 0x06
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
    return [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
        *[step for number in refused for step in ((equal, 0, 1, number), (give, 0, 0, refuse))],
        (at_least, 0, 1, _OTHER_TABLE),
        (give, 0, 0, refuse),
        (equal, 1, 0, mmap),
        (give, 0, 0, allow),
        (load, 0, 0, 16 + 8 * 3),  # its flags
        (mask, 0, 0, _MAP_SHARED_ANONYMOUS),
        (equal, 0, 1, _MAP_SHARED_ANONYMOUS),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]


def _program(job: dict, result: int) -> None:
    """Becomes the program."""
    token_out, token_in = os.pipe()
    os.write(token_in, job["token"].encode())
    nothing = os.open("/dev/null", os.O_RDWR) if job["null"] is None else job["null"]
    # Out of the way first: what is to be copied must not stand where something is copied to.
    sources = [os.dup(fd) for fd in (nothing, nothing, nothing, result, token_out)]
    while min(sources) <= _TOKEN:
        sources = [os.dup(fd) for fd in sources]
    for target, source in enumerate(sources):
        os.dup2(source, target)
    os.closerange(_TOKEN + 1, 256)
    limits = job["limits"]
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        *(((resource.RLIMIT_NPROC, limits["processes"]),) if job["protected"] else ()),
    ):
        resource.setrlimit(name, (value, value))
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8", "LD_LIBRARY_PATH": job["library_path"]}
    os.execve(job["python"], [job["python"], "-I", "-S", "-B", "-c", HARNESS], environment)


def _run(job: dict, result: int) -> None:
    """Forks the program and waits for it, no longer than its limit; never returns."""
    end = time.monotonic() + job["limits"]["seconds"]
    child = os.fork()
    if not child:
        try:
            _program(job, result)
        finally:
            os._exit(126)
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            with contextlib.suppress(OSError):  # the pipe may be full of what the program wrote
                os.write(result, b"timed out ")
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.005)
    os._exit(0)


def _enter(job: dict, ready: int, mapped: int, result: int) -> None:
    """In the first child: new namespaces, then process 1 in them; never returns. What fails is written to `result`."""
    try:
        _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")
        _check(_libc.unshare(_CLONE_ALL), "unshare")
        os.write(ready, b"1")
        if os.read(mapped, 1) != b"1":
            raise OSError("the maps of user ids could not be written")
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(0)
        _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")
        job["null"] = os.open("/dev/null", os.O_RDWR)
        with open("/proc/sys/user/max_user_namespaces", "w") as file:  # of this namespace: the program can't nest another
            file.write("0")
        _file_system(job)
        _no_more_rights()
    except BaseException as error:
        os.write(result, f"no sandbox {error}"[:300].encode("utf-8", "replace"))
        os._exit(125)
    _run(job, result)


def _map_ids(child: int) -> None:
    """Root keeps itself, to reach Python's files, and becomes nobody before the program starts; anyone else is nobody at once."""
    uid, gid = os.geteuid(), os.getegid()
    for name, own in (("uid_map", uid), ("gid_map", gid)):
        if name == "gid_map" and uid:
            _write(f"/proc/{child}/setgroups", "deny")
        _write(f"/proc/{child}/{name}", f"{_NOBODY} {own} 1" if uid else f"0 0 1\n{_NOBODY} {_NOBODY} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _protected(job: dict, result: int) -> None:
    ready_out, ready_in = os.pipe()
    mapped_out, mapped_in = os.pipe()
    child = os.fork()
    if not child:
        os.close(ready_out)
        os.close(mapped_in)
        _enter(job, ready_in, mapped_out, result)
    os.close(ready_in)
    os.close(mapped_out)
    if os.read(ready_out, 1) == b"1":
        try:
            _map_ids(child)
            os.write(mapped_in, b"1")
        except OSError as error:
            os.write(result, f"no sandbox {error}"[:300].encode())
    os.close(mapped_in)
    _watch(child, job["limits"]["memory"], result)


def _watch(child: int, most: int, result: int) -> None:
    """Wait for the namespaces' end, and bring it about when all processes in there hold more than `most` bytes together.

    The limit of address space is of each process alone, and a control group takes rights that a user has not. Memory of no process is
    what `_no_hidden_memory` refuses, and the tmpfs, which has a size of its own.
    """
    ended = os.pidfd_open(child)
    while not select.select([ended], [], [], 0.05)[0]:
        inside = _below(child)
        if sum(map(_private_bytes, inside)) > most:
            with contextlib.suppress(OSError):
                os.write(result, f"out of memory its processes held more than {most >> 20} MB of memory".encode())
            with contextlib.suppress(ProcessLookupError):
                os.kill(inside[0], signal.SIGKILL)  # process 1 of the namespace: all others go with it
            break
    os.waitpid(child, 0)


def _below(process: int) -> list[int]:
    """Processes that stem from one, from the top down."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name stands in parentheses and may hold anything; state and parent follow.
                children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    found = list(children.get(process, ()))
    for number in found:
        found += children.get(number, ())
    return found


def _private_bytes(process: int) -> int:
    """Memory that is no file's, resident or in swap; 0 for a process that has ended."""
    try:
        with open(f"/proc/{process}/status") as file:
            lines = [line.split() for line in file]
    except (OSError, ValueError):
        return 0
    return sum(int(line[1]) << 10 for line in lines if line[0] in ("RssAnon:", "VmSwap:"))


def main() -> None:
    """Read the job, run it, say how it ended."""
    job = {"null": None, **json.load(sys.stdin)}
    result_out, result_in = os.pipe()
    os.set_blocking(result_in, False)
    if job["protected"]:
        _protected(job, result_in)
    else:
        child = os.fork()
        if not child:
            os.chdir(job["root"])
            _write_program(".", job["program"])
            _run(job, result_in)
        os.waitpid(child, 0)
    os.close(result_in)
    text = os.read(result_out, 4096).decode("utf-8", "replace") if _readable(result_out) else ""
    for status in ("no sandbox", "timed out", "out of memory", "failed", "passed"):
        if text.startswith(status + " "):
            detail = text[len(status) + 1 :]
            if status == "passed" and detail != job["token"]:
                status, detail = "failed", "it said that it passed, without the token of its end"
            break
    else:
        status, detail = "failed", "it ended before its last line"
    print(json.dumps({"status": status, "detail": detail}))


def _readable(fd: int) -> bool:
    """Whether something was written; a process that still holds the other end must not be waited for."""
    return bool(select.select([fd], [], [], 0)[0])


if __name__ == "__main__":
    main()
