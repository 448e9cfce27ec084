"""The few lines of Python in the card that open the export; nothing of this project in them."""

import json
from typing import TYPE_CHECKING

from pipeline.exporting.source import Exported

if TYPE_CHECKING:
    from pipeline.exporting.card import Example, Form

POLICY = """\
# pip install {needs}
{imports}

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
{model}
messages = {messages}
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
tokens = model.generate(**inputs{how})[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(tokens, skip_special_tokens=True))
"""
REWARD = """\
# pip install {needs}
import torch
{imports}

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
{model}
messages = {messages}
response = {response} + tokenizer.eos_token
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
tokens = prompt + tokenizer.encode(response, add_special_tokens=False)
with torch.no_grad():
    score = model(torch.tensor([tokens])).logits[0, 0].item() - {bias!r}  # reward_bias
print(score)
"""
CLASSES = {False: "AutoModelForCausalLM", True: "AutoModelForSequenceClassification"}


def usage(exported: Exported, form: "Form", example: "Example") -> str:
    """A program that answers the example, or scores a response to it."""
    kind = CLASSES[exported.scores]
    names = [kind, "AutoTokenizer"]
    labels = ", num_labels=1, pad_token_id=tokenizer.pad_token_id" if exported.scores else ""
    model, how, imports = f"model = {kind}.from_pretrained(folder)", "", ""
    if form.adapter:
        model = (
            f"base = {kind}.from_pretrained({json.dumps(form.base)}{labels})\n"
            "model = PeftModel.from_pretrained(base, folder)"
        )
        imports = "from peft import PeftModel\n"
        if not exported.scores:
            names.append("GenerationConfig")
            how = ", generation_config=GenerationConfig.from_pretrained(folder)"
    return (REWARD if exported.scores else POLICY).format(
        needs=" ".join(form.needs),
        imports=f"{imports}from transformers import {', '.join(names)}",
        folder=json.dumps(form.name),
        model=model,
        how=how,
        messages=json.dumps(example.messages, ensure_ascii=False),
        response=json.dumps(example.response, ensure_ascii=False),
        bias=exported.artifact.manifest.metrics.get("reward_bias", 0.0),
    )
