"""What programs expect of a file system, one line of findings a check: run on a share and on a disk, the lines are compared."""
import errno, fcntl, mmap, os, stat, sys, threading

root = sys.argv[1]
os.chdir(root)
os.umask(0o022)


def check(name):
    def run(test):
        try:
            found = test()
        except OSError as e:
            found = "fails: " + errno.errorcode.get(e.errno, str(e.errno))
        print(f"{name}: {found}", flush=True)
    return run


def child(act):
    """Runs it in another process; what it answers."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = str(act())
        except OSError as e:
            answer = "fails: " + errno.errorcode.get(e.errno, str(e.errno))
        os.write(w, answer.encode())
        os._exit(0)
    os.close(w)
    answer = b""
    while part := os.read(r, 4096):
        answer += part
    os.close(r)
    os.waitpid(pid, 0)
    return answer.decode()


def fails(act):
    try:
        act()
    except OSError as e:
        return errno.errorcode[e.errno]
    return "goes"


def write(name, data):
    with open(name, "wb") as f:
        f.write(data)


def read(name):
    with open(name, "rb") as f:
        return f.read()


@check("flock holds others off")
def _():
    with open("lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        def other():
            with open("lock") as g:
                fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "taken"
        held = child(other)
        fcntl.flock(f, fcntl.LOCK_UN)
        return held, child(other)


@check("record locks hold others off, byte by byte")
def _():
    with open("records", "w+") as f:
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        def other(start):
            with open("records", "r+") as g:
                fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)
                return "taken"
        return child(lambda: other(5)), child(lambda: other(10))


@check("a lock ends with its process")
def _():
    def other():
        g = open("lock", "w")
        fcntl.lockf(g, fcntl.LOCK_EX)
        return "held"
    held = child(other)
    with open("lock", "w") as f:
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return held, "free"


@check("a shared mapping is the file")
def _():
    write("map", b"0" * 8192)
    with open("map", "r+b") as f, mmap.mmap(f.fileno(), 8192) as m:
        m[4096:4100] = b"from"
        m.flush()
        written = read("map")[4096:4100]
        os.pwrite(f.fileno(), b"back", 0)
        return written, bytes(m[0:4]), child(lambda: mmap.mmap(os.open("map", os.O_RDWR), 8192)[4096:4100])


@check("a private mapping is not")
def _():
    with open("map", "r+b") as f, mmap.mmap(f.fileno(), 8192, flags=mmap.MAP_PRIVATE) as m:
        m[0:4] = b"mine"
        return read("map")[0:4]


@check("appends of two do not overwrite each other")
def _():
    write("log", b"")
    def append():
        fd = os.open("log", os.O_WRONLY | os.O_APPEND)
        for _ in range(200):
            os.write(fd, b"0123456789")
        os.close(fd)
    pid = os.fork()
    append()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return os.stat("log").st_size


@check("a file is made once")
def _():
    os.close(os.open("once", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return fails(lambda: os.open("once", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


@check("rename takes the place of another, at once")
def _():
    write("a", b"new")
    write("b", b"old")
    seen = set()
    stop = threading.Event()
    def look():
        while not stop.is_set():
            seen.add(read("b"))
    looker = threading.Thread(target=look)
    looker.start()
    for _ in range(50):
        write("a", b"new")
        os.rename("a", "b")
    stop.set()
    looker.join()
    return sorted(seen - {b"old"}), fails(lambda: os.stat("a"))


@check("folders are renamed, full ones not replaced")
def _():
    os.makedirs("d/e/f")
    os.makedirs("full/of")
    write("d/e/f/x", b"deep")
    os.rename("d", "moved")
    return read("moved/e/f/x"), fails(lambda: os.rename("moved", "full")), fails(lambda: os.rename("moved", "moved/e/in"))


@check("an open file outlives its name")
def _():
    f = open("gone", "w+b")
    os.unlink("gone")
    f.write(b"still")
    f.seek(0)
    return f.read(), os.fstat(f.fileno()).st_nlink, fails(lambda: os.stat("gone"))


@check("hard links are one file")
def _():
    write("one", b"1")
    os.link("one", "two")
    write("two", b"2")
    a, b = os.stat("one"), os.stat("two")
    return read("one"), a.st_nlink, a.st_ino == b.st_ino


@check("symbolic links")
def _():
    os.symlink("one", "link")
    os.symlink("loop", "loop")
    os.symlink("/nowhere", "dangling")
    return os.readlink("link"), read("link"), fails(lambda: open("loop")), fails(lambda: open("dangling")), stat.S_ISLNK(os.lstat("dangling").st_mode)


@check("holes, truncation, allocation")
def _():
    with open("sparse", "wb") as f:
        f.seek(1 << 20)
        f.write(b"end")
    size = os.stat("sparse").st_size
    os.truncate("sparse", 10)
    short = read("sparse")
    fd = os.open("sparse", os.O_RDWR)
    os.posix_fallocate(fd, 0, 100)
    os.close(fd)
    return size, short, os.stat("sparse").st_size


@check("times are kept to the nanosecond")
def _():
    os.utime("one", ns=(1_234_567_890_123_456_789, 987_654_321_123_456_789))
    s = os.stat("one")
    return s.st_atime_ns, s.st_mtime_ns


@check("a write moves the time of the file, a new name that of the folder")
def _():
    os.mkdir("times")
    write("times/x", b"")
    os.utime("times/x", (1, 1))
    os.utime("times", (1, 1))
    write("times/x", b"more")
    write("times/y", b"")
    return os.stat("times/x").st_mtime > 1, os.stat("times").st_mtime > 1


@check("modes and owners")
def _():
    write("mode", b"")
    found = []
    for mode in (0o000, 0o640, 0o755, 0o4755, 0o2755):
        os.chmod("mode", mode)
        found.append(oct(stat.S_IMODE(os.stat("mode").st_mode)))
    os.chown("mode", 70, 71)
    s = os.stat("mode")
    return found, s.st_uid, s.st_gid, oct(stat.S_IMODE(s.st_mode))


@check("the owner of a symbolic link")
def _():
    os.lchown("link", 5, 6)
    return os.lstat("link").st_uid, os.stat("one").st_uid


@check("a write takes set-id bits away")
def _():
    write("setid", b"x")
    os.chown("setid", 70, 70)
    os.chmod("setid", 0o6777)
    def other():
        os.setgroups([])
        os.setgid(71)
        os.setuid(71)
        with open("setid", "ab") as f:
            f.write(b"y")
    return child(other), oct(stat.S_IMODE(os.stat("setid").st_mode))


@check("another user may do what the modes say")
def _():
    os.mkdir("shut", 0o700)
    os.mkdir("open", 0o777)
    os.chmod("open", 0o1777)
    write("shut/x", b"")
    write("open/root's", b"")
    os.chmod("one", 0o644)
    def other():
        os.setgid(1000)
        os.setuid(1000)
        write("open/mine", b"m")
        return fails(lambda: os.stat("shut/x")), fails(lambda: open("one", "ab")), read("one"), fails(lambda: os.unlink("open/root's")), os.stat("open/mine").st_uid
    return child(other)


@check("extended attributes")
def _():
    os.setxattr("one", "user.note", b"text")
    os.setxattr("one", "user.empty", b"")
    names = sorted(os.listxattr("one"))
    os.removexattr("one", "user.empty")
    return os.getxattr("one", "user.note"), names, fails(lambda: os.getxattr("one", "user.empty")), fails(lambda: os.setxattr("one", "user.note", b"", os.XATTR_CREATE))


@check("names of any kind")
def _():
    os.mkdir("names")
    for name in ("ä ö ü", "-dash", "new\nline", "quote'\"", "x" * 255, "\u4e2d\u6587", ".hidden", "back\\slash"):
        write("names/" + name, name.encode())
    found = all(read(b"names/" + n) == n for n in os.listdir(b"names"))
    return len(os.listdir("names")), found, fails(lambda: write("names/" + "x" * 256, b""))


@check("many names are all listed")
def _():
    os.mkdir("many")
    for n in range(2000):
        os.close(os.open(f"many/{n:05}", os.O_CREAT | os.O_WRONLY))
    listed = os.listdir("many")
    for n in range(0, 2000, 2):
        os.unlink(f"many/{n:05}")
    return len(listed), len(set(listed)), len(os.listdir("many")), fails(lambda: os.rmdir("many"))


@check("special files")
def _():
    os.mkfifo("pipe")
    import socket
    s = socket.socket(socket.AF_UNIX)
    s.bind("socket")
    s.listen()
    def other():
        c = socket.socket(socket.AF_UNIX)
        c.connect("socket")
        return "connected"
    return stat.S_ISFIFO(os.stat("pipe").st_mode), stat.S_ISSOCK(os.stat("socket").st_mode), child(other)


@check("what is no folder, what is one")
def _():
    return fails(lambda: os.stat("one/x")), fails(lambda: open("many", "wb")), fails(lambda: os.rmdir("one")), fails(lambda: os.unlink("many")), fails(lambda: os.mkdir("one"))


@check("vectors, offsets, copies")
def _():
    fd = os.open("vec", os.O_CREAT | os.O_RDWR)
    os.writev(fd, [b"ab", b"cd", b"ef"])
    os.pwrite(fd, b"XX", 2)
    out = os.open("vec2", os.O_CREAT | os.O_RDWR)
    os.lseek(fd, 0, 0)
    n = os.copy_file_range(fd, out, 6)
    os.fsync(out)
    os.fdatasync(fd)
    return os.pread(fd, 10, 1), n, read("vec2")


@check("a temporary file without a name")
def _():
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"t")
    return os.pread(fd, 1, 0)
