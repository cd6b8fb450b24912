"""docker-py against the engine: what its users do first. DOCKER_HOST names the engine; every assert is the test."""

import docker

client = docker.from_env()
assert client.ping()
assert client.version()["ApiVersion"] == "1.51"
assert client.info()["OSType"] == "linux"

assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
try:
    client.containers.run("busybox", "sh -c 'echo no >&2; exit 3'", remove=True)
    raise AssertionError("an exit code of 3 is an error")
except docker.errors.ContainerError as e:
    assert e.exit_status == 3 and e.stderr == b"no\n", e

c = client.containers.run(
    "busybox", ["sh", "-c", "echo one; echo two >&2; exec sleep 1000"], detach=True, name="py", environment={"A": "b"},
    labels={"made": "here"}, mem_limit="64m", ports={"80/tcp": None}, volumes={"data": {"bind": "/data", "mode": "rw"}},
)
c.reload()
assert c.status == "running" and c.labels == {"made": "here"}
assert c.attrs["HostConfig"]["Memory"] == 64 << 20
assert int(c.ports["80/tcp"][0]["HostPort"]) > 0
assert c.exec_run("sh -c 'echo $A; exit 5'") == (5, b"b\n")
both = c.exec_run("sh -c 'echo out; echo err >&2'", demux=True)
assert both.output == (b"out\n", b"err\n"), both
assert [x.name for x in client.containers.list(filters={"label": "made=here"})] == ["py"]
assert b"one" in c.logs() and c.logs(stdout=False) == b"two\n"
assert next(c.logs(stream=True)) == b"one\n"
assert c.top()["Processes"]
c.stop(timeout=0)
assert c.wait()["StatusCode"] == 137
c.rename("renamed")
c.remove(v=True)
try:
    client.containers.get("renamed")
    raise AssertionError("it is gone")
except docker.errors.NotFound:
    pass

network = client.networks.create("pynet", driver="bridge")
assert client.networks.get(network.id).name == "pynet"
network.remove()
client.volumes.get("data").remove()

image = client.images.get("busybox")
image.tag("mine", "2")
assert "mine:2" in client.images.get("mine:2").tags
client.images.remove("mine:2")
try:
    client.containers.run("nope:1")
    raise AssertionError("there is no such image")
except (docker.errors.ImageNotFound, docker.errors.APIError):
    pass
# Builds: from a file alone, from a folder, and those that fail.
import io
import os
import tempfile

built, log = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo of the step > /said\n"), tag="py:1")
assert built.tags == ["py:1"], built.tags
assert any("Step 2/2 : RUN echo of the step" in line.get("stream", "") for line in log)
assert client.containers.run("py:1", "cat /said", remove=True) == b"of the step\n"
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "other"), "w") as f:
        f.write("FROM busybox\nARG WORD\nCOPY . /in/\nRUN test -s /in/file && echo $WORD > /word\n")
    with open(os.path.join(folder, "file"), "w") as f:
        f.write("text")
    built, _ = client.images.build(
        path=folder, dockerfile="other", buildargs={"WORD": "w"}, labels={"a": "b"}, gzip=True, rm=True, pull=False,
        extra_hosts={"h": "10.0.0.1"}, shmsize=1 << 20, network_mode="none",
    )
assert built.labels == {"a": "b"} and client.containers.run(built.id, "cat /word", remove=True) == b"w\n"
try:
    client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 3\n"))
    raise AssertionError("a step that fails fails the build")
except docker.errors.BuildError as e:
    assert "returned a non-zero code: 3" in e.msg, e.msg
try:
    client.images.build(fileobj=io.BytesIO(b"FROM busybox\nNONSENSE\n"))
    raise AssertionError("a file that is wrong is refused")
except docker.errors.APIError as e:
    assert e.status_code == 400, e
print("docker-py", docker.__version__)
