"""The official Python client against a server: `openai_client.py BASE_URL KEY [MODEL]`."""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jsonschema
import openai
from pydantic import BaseModel

BASE, KEY = sys.argv[1], sys.argv[2]
MODEL = sys.argv[3] if len(sys.argv) > 3 else "storyteller"
client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=120)
HI = [{"role": "user", "content": "Tell me a story about a fox."}]


def chat(**more):
    more = {"messages": HI, "max_tokens": 24, "temperature": 0, **more}
    return client.chat.completions.create(model=MODEL, **more)


def models():
    listed = client.models.list().data
    assert [m.id for m in listed] == [MODEL] and listed[0].object == "model", listed
    assert client.models.retrieve(MODEL).id == MODEL


def chats():
    whole = chat()
    choice = whole.choices[0]
    assert whole.object == "chat.completion" and choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length") and choice.message.content
    usage = whole.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens <= 24
    assert chat().choices[0].message.content == choice.message.content
    three = chat(n=3, temperature=1, seed=5)
    assert [c.index for c in three.choices] == [0, 1, 2]
    assert len({c.message.content for c in three.choices}) > 1
    again = chat(n=3, temperature=1, seed=5)
    assert [c.message.content for c in again.choices] == [c.message.content for c in three.choices]
    word = choice.message.content.split()[3]
    stopped = chat(stop=[word]).choices[0]
    assert word not in stopped.message.content and stopped.finish_reason == "stop"
    probable = chat(logprobs=True, top_logprobs=3, max_tokens=5).choices[0].logprobs.content
    assert len(probable) == 5 and all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in probable)
    assert all(t.top_logprobs[0].token == t.token and bytes(t.bytes).decode(errors="replace") for t in probable)


def streams():
    whole = chat()
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant" and len({c.id for c in chunks}) == 1
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert reasons == [whole.choices[0].finish_reason]
    with client.chat.completions.stream(model=MODEL, messages=HI, max_tokens=24, temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.current_completion_snapshot.choices[0].message.content == text
    # Who goes away in the middle leaves nothing behind.
    for _ in range(3):
        stream = chat(stream=True, max_tokens=1000)
        next(iter(stream))
        stream.close()

    async def several():
        other = openai.AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0)
        one = lambda: other.chat.completions.create(model=MODEL, messages=HI, max_tokens=24, temperature=0)
        for answer in await asyncio.gather(*(one() for _ in range(8))):
            assert answer.choices[0].message.content == text

    asyncio.run(several())


CITY = {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "How it is outside.", "parameters": {
        "type": "object", "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "sing", "parameters": {
        "type": "object", "properties": {"loud": {"type": "boolean"}}, "required": ["loud"],
        "additionalProperties": False}}},
]


def tools():
    assert chat(tools=TOOLS).choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert chat(tools=TOOLS, tool_choice="none").choices[0].message.tool_calls is None
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}
    for seed in range(5):
        forced = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=200,
                      temperature=1, seed=seed).choices[0]
        call, = forced.message.tool_calls
        assert forced.finish_reason == "tool_calls" and forced.message.content is None
        jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
    several = chat(tools=TOOLS, tool_choice="required", max_tokens=400).choices[0]
    assert several.finish_reason == "tool_calls", several
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
        {"type": "function", "function": {"name": "sing"}}]}}
    for call in chat(tools=TOOLS, tool_choice=allowed, max_tokens=400).choices[0].message.tool_calls:
        assert call.function.name == "sing" and list(json.loads(call.function.arguments)) == ["loud"]
    named = {"type": "function", "function": {"name": "weather"}}
    whole = chat(tools=TOOLS, tool_choice=named, max_tokens=200).choices[0].message
    call, = whole.tool_calls
    assert call.type == "function" and call.function.name == "weather" and call.id
    name, arguments, ids = "", "", []
    for chunk in chat(tools=TOOLS, tool_choice=named, max_tokens=200, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.index == 0
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
            ids += [delta.id] if delta.id else []
    assert (name, arguments, len(ids)) == ("weather", call.function.arguments, 1)
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"sky": "blue"})}
    after = chat(messages=[*HI, whole.model_dump(exclude_none=True), result], tools=TOOLS, tool_choice="none")
    assert after.choices[0].message.content and after.usage.prompt_tokens > 50


class Animal(BaseModel):
    name: Literal["fox", "owl", "hare"]
    legs: int
    friends: list[Literal["ant", "bee"]]


SCHEMAS = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
     "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "items": {"enum": ["a", "b", 3, None, True]}, "minItems": 1, "maxItems": 5},
    {"type": "object", "properties": {"kind": {"const": "point"}, "at": {"type": "array", "items": {"type": "number"},
     "minItems": 2, "maxItems": 2}}, "required": ["kind", "at"], "additionalProperties": False},
    {"$defs": {"tree": {"type": "object", "properties": {"leaf": {"type": "boolean"}, "left": {"anyOf": [
        {"$ref": "#/$defs/tree"}, {"type": "null"}]}}, "required": ["leaf", "left"], "additionalProperties": False}},
     "$ref": "#/$defs/tree"},
]


def schema():
    def one(seed):
        wanted = SCHEMAS[seed % len(SCHEMAS)]
        form = {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": wanted}}
        choice = chat(response_format=form, max_tokens=1000, temperature=1, seed=seed).choices[0]
        assert choice.finish_reason == "stop", (seed, choice)
        jsonschema.validate(json.loads(choice.message.content), wanted)

    with ThreadPoolExecutor(8) as pool:
        print("   valid:", len(list(pool.map(one, range(100)))), "of 100")
    parsed = client.chat.completions.parse(
        model=MODEL, messages=HI, response_format=Animal, max_tokens=500, temperature=1, seed=1)
    assert isinstance(parsed.choices[0].message.parsed, Animal)
    assert json.loads(chat(response_format={"type": "json_object"}, max_tokens=1000, temperature=1, seed=3)
                      .choices[0].message.content) is not None


def completions():
    whole = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0, logprobs=2)
    assert whole.object == "text_completion" and len(whole.choices[0].logprobs.tokens) == 8
    assert "".join(whole.choices[0].logprobs.tokens) == whole.choices[0].text
    echoed = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1)
    scores = echoed.choices[0].logprobs
    assert echoed.choices[0].text == "Once upon a time" and scores.token_logprobs[0] is None
    assert sum(scores.token_logprobs[1:]) < 0 and len(scores.tokens) == echoed.usage.prompt_tokens
    parts = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0, stream=True)
    assert "".join(p.choices[0].text for p in parts) == whole.choices[0].text
    best = client.completions.create(model=MODEL, prompt="The king", max_tokens=8, temperature=1, seed=1, n=2, best_of=6,
                                     logprobs=0).choices
    first, second = (sum(c.logprobs.token_logprobs) / len(c.logprobs.tokens) for c in best)
    every = client.completions.create(model=MODEL, prompt="The king", max_tokens=8, temperature=1, seed=1, n=6)
    assert first >= second and {c.text for c in best} <= {c.text for c in every.choices}
    many = client.completions.create(model=MODEL, prompt=["Once"] * 20, max_tokens=1)
    assert [c.index for c in many.choices] == list(range(20))
    several = client.completions.create(model=MODEL, prompt=["Once", [1, 2, 3]], n=2, max_tokens=2, echo=True)
    assert len(several.choices) == 4 and several.choices[1].text.startswith("Once")


def embeddings():
    plain = client.embeddings.create(model=MODEL, input=["a fox", "an owl"], encoding_format="float")
    assert plain.object == "list" and [d.index for d in plain.data] == [0, 1] and plain.usage.prompt_tokens > 1
    packed = client.embeddings.create(model=MODEL, input=["a fox", "an owl"])  # the client asks for base64
    for a, b in zip(plain.data, packed.data):
        assert abs(sum(x * x for x in a.embedding) - 1) < 1e-3
        assert max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-6


def responses():
    whole = client.responses.create(model=MODEL, input="Tell me a story.", max_output_tokens=16, temperature=0)
    assert whole.object == "response" and whole.output_text and whole.usage.output_tokens <= 16
    events = list(client.responses.create(
        model=MODEL, input="Tell me a story.", max_output_tokens=16, temperature=0, stream=True))
    assert events[0].type == "response.created" and events[-1].response.output_text == whole.output_text
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    probable = client.responses.create(model=MODEL, input="Tell me a story.", max_output_tokens=16, temperature=0,
                                       top_logprobs=2, include=["message.output_text.logprobs"])
    spoken = probable.output[0].content[0].logprobs
    assert "".join(t.token for t in spoken) == whole.output_text and len(spoken[0].top_logprobs) == 2
    flat = [{"type": "function", **t["function"], "strict": True} for t in TOOLS]
    called = client.responses.create(model=MODEL, input="Sing!", tools=flat, tool_choice="required",
                                     parallel_tool_calls=False, max_output_tokens=200)
    call = called.output[-1]
    assert call.type == "function_call" and isinstance(json.loads(call.arguments), dict)
    after = client.responses.create(model=MODEL, max_output_tokens=8, input=[
        {"role": "user", "content": "Sing!"}, *[item.model_dump(exclude_none=True) for item in called.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "la la"}])
    assert after.output_text is not None
    assert client.responses.retrieve(after.id).output_text == after.output_text
    on = client.responses.create(model=MODEL, max_output_tokens=8, input="And then?", previous_response_id=whole.id)
    items = [{"role": "user", "content": "Tell me a story."}, {"type": "item_reference", "id": whole.output[0].id},
             {"role": "user", "content": "And then?"}]
    again = client.responses.create(model=MODEL, max_output_tokens=8, input=items, store=False)
    assert on.usage.input_tokens == again.usage.input_tokens > whole.usage.total_tokens
    client.responses.delete(after.id)
    parsed = client.responses.parse(model=MODEL, input="An animal", text_format=Animal, max_output_tokens=500)
    assert isinstance(parsed.output_parsed, Animal)


def errors():
    def fails(kind, status, code, call):
        try:
            call()
        except kind as e:
            assert (e.status_code, e.code) == (status, code), (e.status_code, e.code, e.message)
            assert e.type and e.body["message"] and "param" in e.body
            return e
        raise AssertionError(f"{code} was expected")

    wrong = openai.OpenAI(base_url=BASE, api_key="wrong", max_retries=0)
    fails(openai.AuthenticationError, 401, "invalid_api_key", wrong.models.list)
    fails(openai.NotFoundError, 404, "model_not_found", lambda: client.chat.completions.create(model="x", messages=HI))
    fails(openai.NotFoundError, 404, "model_not_found", lambda: client.models.retrieve("x"))
    fails(openai.NotFoundError, 404, "response_not_found", lambda: client.responses.retrieve("resp_x"))
    bad = fails(openai.BadRequestError, 400, "invalid_type", lambda: chat(temperature=3))
    assert bad.param == "temperature"
    fails(openai.BadRequestError, 400, "unknown_parameter", lambda: chat(extra_body={"no_such": 1}))
    long = fails(openai.BadRequestError, 400, "context_length_exceeded",
                 lambda: chat(messages=[{"role": "user", "content": "word " * 5000}]))
    assert long.body["n_ctx"] < long.body["n_prompt_tokens"]
    fails(openai.BadRequestError, 400, "invalid_value", lambda: chat(tools=[{"type": "function", "function": {}}]))
    fails(openai.NotFoundError, 404, "unknown_url", lambda: client.post("/nothing", cast_to=object))
    try:
        client.with_options(timeout=0.02).completions.create(model=MODEL, prompt="x", max_tokens=1500,
                                                             extra_body={"ignore_eos": True})
        raise AssertionError("a timeout was expected")
    except openai.APITimeoutError:
        pass


for check in [models, chats, streams, tools, schema, completions, embeddings, responses, errors]:
    begin = time.time()
    check()
    print(f"ok {check.__name__} ({time.time() - begin:.1f} s)", flush=True)
