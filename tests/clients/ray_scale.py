"""examples/scale/ray_app.py with two replicas, one of which is killed: `ray_scale.py UNIMLX`.

Needs `pip install 'ray[serve]' aiohttp openai`. Not part of CI: Ray is large.
"""

import concurrent.futures
import os
import pathlib
import signal
import sys
import threading
import time
import urllib.request

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["PYTHONPATH"] = folder = str(pathlib.Path(__file__).parents[2] / "examples/scale")
sys.path.insert(0, folder)
import openai
import ray
from ray import serve
import ray_app

UNIMLX = sys.argv[1]
BASE = "http://127.0.0.1:8123"
ray.init(num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": 8123})
serve.run(ray_app.build({"unimlx": UNIMLX, "min_replicas": "2", "max_replicas": "3", "target": "4",
                         "upscale_delay": "2"}), name="unimlx")
client = openai.OpenAI(base_url=BASE + "/v1", api_key="none", max_retries=0, timeout=60)


def replica():
    with urllib.request.urlopen(BASE + "/v1/models") as response:
        return response.headers["x-replica"], int(response.headers["x-replica-pid"])


def replicas(n, seconds=60):
    """Waits until so many replicas answer."""
    begin, seen = time.time(), {}
    while time.time() - begin < seconds:
        seen = {}
        for _ in range(40):
            try:
                name, pid = replica()
                seen[name] = pid
            except Exception:
                pass
        if len(seen) >= n:
            return seen
        time.sleep(0.2)
    raise AssertionError(f"{n} replicas were expected, {seen} are there")


def chat(**more):
    return client.chat.completions.create(
        model="storyteller", messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=40, temperature=0,
        **more)


two = replicas(2)
print("two replicas:", two)
text = chat().choices[0].message.content
streamed = "".join(c.choices[0].delta.content or "" for c in chat(stream=True))
assert streamed == text
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    assert all(a.choices[0].message.content == text for a in pool.map(lambda _: chat(), range(32)))
print("32 answers, all alike")

# A server is killed while requests come.
stop, good, bad = threading.Event(), [], []


def load():
    while not stop.is_set():
        try:
            assert chat().choices[0].message.content == text
            good.append(time.time())
        except openai.APIStatusError as e:
            bad.append((time.time(), e.status_code))
            time.sleep(0.1)
        except openai.APIConnectionError:
            bad.append((time.time(), "connection"))
            time.sleep(0.1)


threads = [threading.Thread(target=load) for _ in range(2)]
[t.start() for t in threads]
time.sleep(2)
killed, pid = next(iter(two.items()))
begin = time.time()
os.kill(pid, signal.SIGKILL)
while True:
    time.sleep(0.5)
    now = replicas(2)
    if killed not in now and pid not in now.values():
        break
    assert time.time() - begin < 60, now
healed = time.time() - begin
time.sleep(2)
stop.set()
[t.join() for t in threads]
last = max((t for t, _ in bad), default=begin) - begin
print(f"one killed: replaced after {healed:.1f} s by {now}; {len(good)} answers, {len(bad)} failures"
      f" ({sorted({str(s) for _, s in bad})}), the last after {last:.1f} s")
assert len(good) > 10 and last < 20
retrying = client.with_options(max_retries=5)

# A replica's whole process is killed.
victim = next(iter(now.values()))
parent = int(open(f"/proc/{victim}/stat").read().rsplit(")", 1)[1].split()[1])
os.kill(parent, signal.SIGKILL)
begin = time.time()
while time.time() - begin < 60 and os.path.exists(f"/proc/{victim}"):
    time.sleep(0.1)
assert not os.path.exists(f"/proc/{victim}"), "the server outlived its replica"
print("a replica killed: its server ended with it;", replicas(2), "are there")
answer = retrying.chat.completions.create(
    model="storyteller", messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=40, temperature=0)
assert answer.choices[0].message.content == text

# More work, more replicas.
stop.clear()
threads = [threading.Thread(target=load) for _ in range(16)]
[t.start() for t in threads]
three = replicas(3, 90)
stop.set()
[t.join() for t in threads]
print("under load there are three:", three)
serve.shutdown()
ray.shutdown()
print("ok")
