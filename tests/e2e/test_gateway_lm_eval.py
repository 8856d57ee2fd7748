"""lm_eval (its model `local-completions`, unmodified) through the gateway, on a task of this file."""

import json
import os
import subprocess
import sys

import pytest
from gateway_process import GatewayProcess
from server_process import ROOT

# The question's true end is the story's own; lm_eval compares sums of log-probabilities.
QUESTIONS = [
    ("Once upon a time there was", [" a king", " of the"], 0),
    ("He put on his hat and went out of the", [" swim", " house"], 1),
    ("She sat down by the fire and began to", [" weep", " yesterday"], 0),
]

TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""

WRITE = """
task: tiny_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{written}}}}"
target_delimiter: ""
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""

EVALUATE = """
import json, sys
import lm_eval, lm_eval.tasks
results = lm_eval.simple_evaluate(
    model="local-completions", model_args=sys.argv[1], tasks=["tiny", "tiny_write"], batch_size=1,
    log_samples=True, bootstrap_iters=0,
    task_manager=lm_eval.tasks.TaskManager(include_path=sys.argv[2], include_defaults=False))
with open(sys.argv[2] + "/results.json", "w") as file:
    json.dump({"results": results["results"], "samples": results["samples"]}, file, default=str)
"""


@pytest.fixture(scope="module")
def gateway(shared_server, tmp_path_factory):
    with GatewayProcess(shared_server.address, tmp_path_factory.mktemp("lm-eval-gateway"),
                        "--tokenizer-config",
                        ROOT / "models/bundled/tale-20m/tokenizer_config.json") as gateway:
        yield gateway


def test_lm_eval(gateway, client, tmp_path):
    # lm_eval sends token ids, without a beginning-of-sequence token.
    written = lambda question: client.generate(client.tokenize(question), max_tokens=8,
                                               stop="\n").result().text
    documents = [{"question": question, "choices": choices, "answer": answer,
                  "written": written(question)} for question, choices, answer in QUESTIONS]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tmp_path / "tiny.yaml").write_text(TASK.format(data=data))
    (tmp_path / "tiny_write.yaml").write_text(WRITE.format(data=data))
    arguments = (f"model=test,base_url={gateway.url}/completions,tokenizer_backend=remote,"
                 "num_concurrent=2,max_retries=1")
    # In a process of its own, with nothing but this machine to reach, and no other tasks to read.
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, arguments, str(tmp_path)], capture_output=True, text=True,
        timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                          "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "x"})
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    scores = results["results"]
    assert scores["tiny_write"]["exact_match,none"] == 1.0, results
    assert len(results["samples"]["tiny"]) == len(QUESTIONS)
    for sample in results["samples"]["tiny"]:
        document = sample["doc"]
        for (logprob, _), choice in zip(sample["filtered_resps"], document["choices"]):
            ids = [client.tokenize(text) for text in (document["question"],
                                                      document["question"] + choice)]
            scored = client.score(ids[1]).logprobs[len(ids[0]) - 1:]
            assert float(logprob) == pytest.approx(sum(t.logprob for t in scored), abs=1e-4)
    right = scores["tiny"]["acc,none"] * len(QUESTIONS)
    assert right == pytest.approx(sum(
        _best(client, question, choices) == answer for question, choices, answer in QUESTIONS))


def _best(client, question, choices):
    """The choice that the model finds most probable."""
    start = len(client.tokenize(question)) - 1
    sums = [sum(t.logprob for t in client.score(client.tokenize(question + c)).logprobs[start:])
            for c in choices]
    return sums.index(max(sums))
