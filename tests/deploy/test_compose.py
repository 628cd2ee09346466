"""Does the compose file give a server that keeps its promises, in a real Docker engine?

The engine, its Debian and its network are the test's own; see docker.py and make-base.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ziggurat

from tests.deploy.camera import frame
from tests.deploy.docker import CACHE, HERE, SHARED, Docker, missing
from tests.support.server import clean_environment
from tests.support.waiting import SECONDS, until

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.slow]

CONTAINER = "ziggurat-engine-1"
MIB = 2**20
TOP = HERE.parents[1]
# What is copied to where the engine sees it; a developer's .env is not.
SOURCES = ("clients", "engine", "proto", "docker-compose.yml", ".dockerignore", ".env.example")
SOURCES += ("LICENSE", "README.md", "pyproject.toml")


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """An engine that knows debian:trixie-slim, beside a copy of the sources."""
    directory = tmp_path_factory.mktemp("docker")
    engine = Docker(directory)
    try:
        with (CACHE / "debian.tar").open("rb") as debian:
            engine.run("docker", "import", "-", "debian:trixie-slim", stdin=debian)
        for name in SOURCES:
            source = TOP / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, engine.shared / name, ignore=ignored)
            else:
                shutil.copy(source, engine.shared / name)
        yield engine
    finally:
        engine.stop()
        # Of all that was written, an engine and its images, nothing is worth keeping.
        shutil.rmtree(directory)


def config(docker: Docker, *arguments: str) -> dict:
    return json.loads(docker.run("docker", "compose", *arguments, "config", "--format", "json"))


def test_without_configuration_it_is_published_on_loopback_only(docker: Docker) -> None:
    services = config(docker)["services"]
    assert list(services) == ["engine"]
    (port,) = services["engine"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "7447", 7447)
    assert services["engine"]["read_only"] is True


def test_the_gpu_is_reserved_where_asked_for(docker: Docker) -> None:
    gpu = config(docker, "--profile", "gpu")["services"]["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "gpu" in device["capabilities"]
    assert gpu["build"]["args"] == {"EXTRA": "cuda12"}


def test_monitoring_is_pinned_provisioned_and_on_loopback(docker: Docker) -> None:
    services = config(docker, "--profile", "monitoring")["services"]
    assert set(services) == {"engine", "prometheus", "grafana"}
    for name in ("prometheus", "grafana"):
        service = services[name]
        _, _, tag = service["image"].partition(":")
        assert tag not in ("", "latest")
        assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
        for volume in service["volumes"]:
            if volume["type"] == "bind":
                source = docker.shared / Path(volume["source"]).relative_to(SHARED)
                assert source.is_file(), volume
    # The metrics of the engine are for the network of the file alone.
    assert [port["target"] for port in services["engine"]["ports"]] == [7447]


def test_all_of_the_example_is_valid(docker: Docker) -> None:
    """Every line without its mark of a comment."""
    lines = (docker.shared / ".env.example").read_text("utf-8").splitlines()
    chosen = [line.removeprefix("#") for line in lines if line.startswith("#") and "=" in line]
    example = docker.shared / "chosen"
    example.write_text("\n".join(chosen), "utf-8")
    plain, said = config(docker)["services"]["engine"], config(docker, f"--env-file={example.name}")
    given = said["services"]["engine"]
    assert given["ports"] == plain["ports"]
    assert given["mem_limit"] == plain["mem_limit"]
    # data, log, compiled code, settings, certificates
    kinds = [volume["type"] for volume in given["volumes"]]
    assert kinds == ["bind", "bind", "volume", "bind", "bind"]


class Deployment:
    """The service, published on a free port."""

    def __init__(self, docker: Docker) -> None:
        self.docker = docker
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        # Of the administrator: known once it was up.
        self.token = ""

    def connect(self) -> ziggurat.Client:
        return ziggurat.connect(self.address, token=self.token)

    def compose(self, *arguments: str) -> str:
        return self.docker.run("docker", "compose", *arguments)

    def build(self) -> None:
        # Containers have no way out of their network; a build goes by this machine's.
        (self.docker.shared / "build.yml").write_text(
            "services: {engine: {build: {network: host}}}", "utf-8"
        )
        index = pip_index()
        if index:
            (self.docker.shared / "pip.conf").write_text(f"[global]\nindex-url = {index}", "utf-8")
            self.settings(PIP_CONFIG_FILE="pip.conf")
        self.compose("-f", "docker-compose.yml", "-f", "build.yml", "build")

    def settings(self, **settings: str) -> None:
        lines = [f"{name}={value}" for name, value in settings.items()]
        (self.docker.shared / ".env").write_text("\n".join(lines), "utf-8")

    def up(self, toml: str = "", **settings: str) -> None:
        """toml: what the mounted file says, where there is one."""
        if toml:
            (self.docker.shared / "ziggurat.toml").write_text(toml, "utf-8")
            settings["ZIGGURAT_TOML"] = "./ziggurat.toml"
        self.settings(ZIGGURAT_PUBLISH=self.address, **settings)
        try:
            self.compose("up", "--detach", "--wait", "--no-build")
        except AssertionError as error:
            state = self.docker.run("docker", "inspect", "--format={{json .State}}", CONTAINER)
            raise AssertionError(f"{error}{state}{self.compose('logs', '--tail=50')}") from None
        if not self.token:
            # The first start tells it, and no other.
            said = self.compose("logs", "--no-log-prefix", "engine")
            (self.token,) = re.findall(r"admin token, shown only now: (\S+)", said)

    def container(self) -> str:
        return self.compose("ps", "--quiet", "engine").strip()


def pip_index() -> str:
    """The index that this machine chose for pip; empty where it chose none."""
    if "PIP_INDEX_URL" in os.environ or not shutil.which("pip"):
        return os.environ.get("PIP_INDEX_URL", "")
    ask = ["pip", "config", "get", "global.index-url"]
    return subprocess.run(ask, check=False, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def deployment(docker: Docker) -> Iterator[Deployment]:
    made = Deployment(docker)
    made.build()
    try:
        yield made
    finally:
        made.compose("down", "--volumes")


class Camera:
    """camera.py in another process, here or in a container of the network."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen = 0

    def durable(self, least: int) -> int:
        """Waits until so many frames are acknowledged; how many are."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen = int(line)
            if self.seen >= least:
                return self.seen
        raise AssertionError(f"the camera ended with {self.process.wait(SECONDS)}")

    def end(self) -> int:
        """Lets it finish; how many frames it wrote."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        count = self._last()
        assert self.process.wait(SECONDS) == 0
        return count

    def die(self) -> int:
        """Ends it as it is; how many frames were acknowledged at least."""
        self.process.kill()
        return self._last()

    def _last(self) -> int:
        assert self.process.stdout is not None
        whole = [line for line in self.process.stdout if line.endswith("\n")]
        return int(whole[-1]) if whole else self.seen


def camera_token(deployment: Deployment) -> str:
    """One that may write below lab/ and do no more."""
    create = ["exec", "engine", "ziggurat-engine", "token", "create", "--scope=write"]
    name = f"camera-{uuid.uuid4()}"
    return deployment.compose(*create, "--prefix=lab/", f"--name={name}").strip()


@pytest.fixture
def cameras(deployment: Deployment) -> Iterator[Callable[..., Camera]]:
    with contextlib.ExitStack() as stack:

        def started(name: str, *, contained: bool) -> Camera:
            token = camera_token(deployment)
            if contained:
                shutil.copy(HERE / "camera.py", deployment.docker.shared)
                command = ["docker", "run", "--rm", "--interactive", "--network=ziggurat_default"]
                # The network of the containers leaves this machine nowhere.
                command += [f"--env=ZIGGURAT_TOKEN={token}", "--env=ZIGGURAT_INSECURE=1"]
                command += ["--volume=/shared/camera.py:/camera.py:ro", "--entrypoint=python"]
                command += ["ziggurat-engine", "/camera.py", "engine:7447", name]
                process = deployment.docker.start(*command)
            else:
                process = subprocess.Popen(
                    [sys.executable, str(HERE / "camera.py"), deployment.address, name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=clean_environment(ZIGGURAT_TOKEN=token),
                    text=True,
                )
            stack.enter_context(process)  # closes its pipes, behind the kill
            stack.callback(process.kill)
            return Camera(process)

        yield started


def assert_frames(image: ziggurat.Image, count: int) -> None:
    assert image.shape[0] >= count
    pixels = image.read(offset=(0, 0, 0), shape=(count, 128, 128))
    assert all((pixels[t] == frame(t)).all() for t in range(count))


def test_killed_in_mid_stream_and_up_again(
    deployment: Deployment, cameras: Callable[..., Camera]
) -> None:
    """One client goes on over the kill, the other dies with it: what it knew is there."""
    deployment.up(ZIGGURAT_MEMORY="2g")
    with (
        ziggurat.connect(deployment.address) as nobody,
        pytest.raises(ziggurat.Unauthenticated, match="a token is needed"),
    ):
        nobody.list()
    assert deployment.compose("exec", "engine", "ziggurat-engine", "health") == "SERVING\n"
    # It has a server of its own, and needs no token of this one's.
    assert "all pixels of" in deployment.compose(
        "exec", "engine", "ziggurat-engine", "demo", "--mib=4"
    )
    with deployment.connect() as client:
        # What the container may have is what the budget comes from.
        assert client.status().cache.budget_bytes == 512 * MIB
    inside, outside = cameras("lab/inside", contained=True), cameras("lab/outside", contained=False)
    for camera in (inside, outside):
        camera.durable(100)
    deployment.docker.run("docker", "kill", deployment.container())
    acknowledged = outside.die()
    deployment.up('cache_bytes = "300MiB"', ZIGGURAT_MEMORY="2g")
    inside.durable(acknowledged + 100)
    with deployment.connect() as client:
        assert client.status().cache.budget_bytes == 300 * MIB
        assert acknowledged >= 100
        assert_frames(client.open("lab/outside"), acknowledged)
        count = inside.end()
        assert_frames(client.open("lab/inside"), count)
        assert not client.open("lab/inside").fetch(level=1).stale
    # Compiled code lies in its volume: the next container doesn't compile it again.
    find = ["exec", "engine", "find", "/var/cache/ziggurat", "-name", "*.nbc"]
    assert deployment.compose(*find)


def test_a_crash_restarts_it(deployment: Deployment) -> None:
    deployment.up()
    container = deployment.container()
    # Process 1 passes on signals; its only child is the server.
    crash = ["docker", "exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)"]
    deployment.docker.start(*crash).communicate(timeout=SECONDS)
    state = "--format={{.RestartCount}} {{.State.Health.Status}}"
    inspect = ["docker", "inspect", state, container]
    until(
        lambda: deployment.docker.run(*inspect).strip() == "1 healthy",
        "the server to be back and healthy",
    )
    with deployment.connect() as client:
        client.status()


def test_down_drains(deployment: Deployment, cameras: Callable[..., Camera]) -> None:
    """A stream is under way: the server ends it, stores all of it and exits with 0."""
    deployment.up('cache_bytes = "300MiB"', ZIGGURAT_CACHE_BYTES="280MiB")
    camera = cameras("lab/drained", contained=False)
    camera.durable(100)
    with deployment.connect() as client:
        assert client.status().cache.budget_bytes == 280 * MIB
    exited = deployment.docker.start("docker", "wait", deployment.container())
    deployment.compose("down")
    acknowledged = camera.die()
    assert exited.communicate(timeout=SECONDS)[0].strip() == "0"
    assert deployment.compose("ps", "--all", "--quiet") == ""
    deployment.up()
    with deployment.connect() as client:
        assert_frames(client.open("lab/drained"), acknowledged)
