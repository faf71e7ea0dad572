"""Checks what an image holds: that it is the server, what the server needs, and nothing that helps an attacker.

python3 check.py CONFIG ROOTFS LOCK

What the launch policy says is for `codeseal policy lint`.
"""

import json
import pathlib
import re
import stat
import sys

SERVER = "usr/local/bin/codeseal-server"
# Whatever starts one of these has a shell, or a way to bring one.
INTERPRETERS = re.compile(
    r"/(sh|bash|dash|ash|zsh|busybox|toybox|perl[^/]*|python[^/]*|env|apt[^/]*|dpkg[^/]*|curl|wget)$"
)
SECRET_NAMES = re.compile(
    r"(^|/)(id_(rsa|ed25519|ecdsa)|\.netrc|\.docker|\.ssh|\.git|.*\.key|credentials.*\.json)$"
)
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{32}")
# Names that a program holds since it speaks of them are no secrets; a variable that is set to one would be.
SECRET_VARIABLE = re.compile(r"(?i)(secret|token|password|credential|private)")
VARIABLES = {"LD_LIBRARY_PATH", "PATH"}
# Of the machine that builds: the Dockerfile's own directories are mapped away.
BUILD_PATHS = re.compile(rb"/(root|home|work|builds|Users|tmp)/[\w.-]+/[\w./-]*\.(rs|c|cu)\b|/usr/local/cargo/|/src/src/")


def problems_of_config(config):
    if sorted(config.get("ExposedPorts", {})) != ["8080/tcp"]:
        yield f"ports: {sorted(config.get('ExposedPorts', {}))}, and not 8080/tcp alone"
    if config.get("Entrypoint") != ["/" + SERVER]:
        yield f"entry point: {config.get('Entrypoint')}"
    if config.get("Cmd"):
        yield "there are arguments"
    if config.get("Volumes"):
        yield "there are volumes"
    if not re.fullmatch(r"\d+(:\d+)?", config.get("User", "")):
        yield f"user: {config.get('User')!r} is no number"
    for variable in config.get("Env", []):
        name = variable.split("=", 1)[0]
        if not name.startswith("CODESEAL_") and name not in VARIABLES:
            yield f"a variable that is not the server's: {name}"
        if SECRET_VARIABLE.search(name):
            yield f"a variable that sounds like a secret: {name}"


def is_program(path, head):
    return head[:2] == b"#!" or (head[:4] == b"\x7fELF" and ".so" not in path.name)


def problems_of_file(root, path):
    name = str(path.relative_to(root))
    mode = path.lstat().st_mode
    if SECRET_NAMES.search(name):
        yield f"{name}: looks like a secret"
    if INTERPRETERS.search("/" + name) and not stat.S_ISDIR(mode):
        yield f"{name}: a shell, an interpreter, or a package manager"
    if "libcuda" in name:
        yield f"{name}: the driver's libraries are the VM's"
    if stat.S_ISLNK(mode):
        target = path.readlink()
        found = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
        if not found.exists():
            yield f"{name}: leads nowhere"
        return
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        yield f"{name}: a device, a pipe, or a socket"
    if mode & (stat.S_ISUID | stat.S_ISGID):
        yield f"{name}: runs as another user (setuid or setgid)"
    if mode & stat.S_IWOTH and name != "tmp":
        yield f"{name}: is writable for everyone"
    if not stat.S_ISREG(mode):
        return
    content = path.read_bytes()
    if is_program(path, content) and name != SERVER:
        yield f"{name}: a program that is not the server"
    if PRIVATE_KEY.search(content):
        yield f"{name}: holds a private key"
    if name == SERVER:
        for found in sorted(set(match.group().decode() for match in BUILD_PATHS.finditer(content)))[:5]:
            yield f"{name}: says where it was built: {found}"


def main(config, rootfs, lock):
    root = pathlib.Path(rootfs)
    problems = list(problems_of_config(json.loads(pathlib.Path(config).read_text())["config"]))
    for path in sorted(root.rglob("*")):
        problems += problems_of_file(root, path)
    if not (root / SERVER).is_file():
        problems.append("there is no server in it")
    lines = pathlib.Path(lock).read_text().splitlines()
    pinned = {line.split()[0] for line in lines if not line.startswith("#")}
    recorded = {path.name for path in (root / "var/lib/dpkg/status.d").glob("*")}
    if pinned != recorded:
        problems.append(f"packages: {sorted(recorded)}, and not {sorted(pinned)}")
    for problem in problems:
        print(f"check.py: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
