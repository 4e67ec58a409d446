"""Replicas of `unimlx serve` behind Ray Serve: one process for each replica, health checks, autoscaling.

    pip install 'ray[serve]' aiohttp
    serve run ray_app:build model=path/to/model

Arguments of `build`, as `name=value`: `model` (the shipped one without it), `unimlx` (the binary), `min_replicas`,
`max_replicas`, `target` (requests under way for each replica before there are more replicas), `gpus` for each replica.
An API key comes from UNIMLX_API_KEY, and clients send it as to a single server.
"""

import asyncio
import ctypes
import os
import signal
import sys

import aiohttp
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

# What concerns one connection only.
HOP = {"host", "connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length"}


def dies_with_parent():
    """A replica that is killed takes its server along (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Server:
    """One `unimlx serve`, and requests to it."""

    def __init__(self, command: list[str]):
        self.command = command
        self.process = None
        self.starting = asyncio.Lock()

    async def ready(self):
        """Starts the process; called before the first request."""
        async with self.starting:
            if self.process is not None:
                return
            self.process = await asyncio.create_subprocess_exec(
                *self.command, "--port", "0", stderr=asyncio.subprocess.PIPE, preexec_fn=dies_with_parent)
            async for line in self.process.stderr:
                print(line.decode().rstrip(), flush=True)
                if b"http://" in line:
                    self.base = "http://" + line.decode().split("http://")[1].strip()
                    break
            else:
                raise RuntimeError("unimlx serve ended before it listened")
            self.log = asyncio.create_task(self.forward_log())
            self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5))

    async def forward_log(self):
        async for line in self.process.stderr:
            print(line.decode().rstrip(), flush=True)

    async def check_health(self):
        """Raises if the server cannot work any more: Ray then replaces the replica."""
        await self.ready()
        if self.process.returncode is not None:
            raise RuntimeError(f"unimlx serve ended with {self.process.returncode}")
        async with self.session.get(self.base + "/ready", timeout=aiohttp.ClientTimeout(total=5)) as response:
            if response.status != 200:
                raise RuntimeError(f"/ready says {response.status}")

    async def __call__(self, request: Request):
        await self.ready()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        url = self.base + request.url.path + (f"?{request.url.query}" if request.url.query else "")
        try:
            answer = await self.session.request(request.method, url, headers=headers, data=await request.body())
        except aiohttp.ClientError as e:
            error = {"message": f"This replica's server is away: {e}", "type": "server_error", "param": None,
                     "code": "replica_down"}
            return JSONResponse({"error": error}, 503, {"retry-after": "1"})

        async def body():
            # Whoever stops reading closes the request, and with it the work.
            try:
                async for piece in answer.content.iter_any():
                    yield piece
            finally:
                answer.close()

        kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP}
        kept["x-replica"] = serve.get_replica_context().replica_id.unique_id
        kept["x-replica-pid"] = str(self.process.pid)
        return StreamingResponse(body(), answer.status, kept)

    def __del__(self):
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()  # answers that run may end


def build(args: dict[str, str]):
    """The application, with arguments from `serve run` or a config file."""
    command = [args.get("unimlx", os.environ.get("UNIMLX", "unimlx")), "serve"]
    if "model" in args:
        command += ["--model", args["model"]]
    deployment = serve.deployment(
        Server,
        name="unimlx",
        ray_actor_options={"num_cpus": 1, "num_gpus": float(args.get("gpus", 0))},
        # More than a server answers at once: it has a queue of its own, and says when that is full.
        max_ongoing_requests=128,
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=30,
        autoscaling_config={
            "min_replicas": int(args.get("min_replicas", 1)),
            "max_replicas": int(args.get("max_replicas", 4)),
            "target_ongoing_requests": float(args.get("target", 8)),
            "upscale_delay_s": float(args.get("upscale_delay", 5)),
            "downscale_delay_s": float(args.get("downscale_delay", 120)),
        },
    )
    return deployment.bind(command)
