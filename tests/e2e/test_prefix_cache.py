"""Prompts that begin alike, against a real server on the bundled model."""

import grpc
import pytest
from reprise_client.v1 import generation_pb2 as pb
from reprise_client.v1 import generation_pb2_grpc


@pytest.fixture
def generate(shared_server):
    channel = grpc.insecure_channel(shared_server.address)
    stub = generation_pb2_grpc.GenerationServiceStub(channel)

    def call(text, **fields):
        request = pb.GenerateRequest(text=text, **fields)
        request.stop.max_tokens = 8
        request.stop.ignore_eos = True
        ids, finished = [], None
        for response in stub.Generate(request):
            ids += response.tokens.ids
            if response.HasField("finished"):
                finished = response.finished
        return ids, finished.usage

    yield call
    channel.close()


STORY = ("Once upon a time there was a keeper of a lighthouse who wrote down every ship that passed, "
         "and on the shelf behind him stood the books of all the years in which he had done so. ")


def test_a_longer_prompt_computes_only_its_rest(generate):
    _, first = generate(STORY)
    assert first.cached_tokens == 0 and first.reuse_miss_reason == "no_entry"
    ids, usage = generate(STORY + "One evening")
    # The last token of the story may be another one in the longer text.
    assert usage.cached_tokens in (0, first.prompt_tokens)
    _, again = generate(STORY + "One evening he saw")
    assert again.cached_tokens >= first.prompt_tokens - 1
    assert again.computed_tokens == again.prompt_tokens - again.cached_tokens + 7
    cold, without = generate(STORY + "One evening", no_prefix_cache=True)
    assert cold == ids and without.cached_tokens == 0
    assert without.computed_tokens == without.prompt_tokens + 7


def test_marks(generate):
    start = "Two carts met on the bridge"
    generate(start + " at noon", cache_marks=[len(start)])
    _, usage = generate(start + " by night")
    assert 0 < usage.cached_tokens < usage.prompt_tokens
