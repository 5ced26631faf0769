"""Chat templates: the text and the ids that transformers gives for the exported tokenizer."""

import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.chat_template import ChatTemplate
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.train import train_sentencepiece

transformers = pytest.importorskip("transformers")

TEMPLATE = """{{ bos_token }}{% for message in messages %}
  {% if message['role'] == 'system' %}
    {{ raise_exception('no system') }}
  {% endif %}
  {% if loop.index > 9 %}{% break %}{% endif %}
{{ message['role'] | tojson }}: {{ message['content'] | trim }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}

{% endfor %}
{% if add_generation_prompt %}assistant: {% endif %}"""
TALK = [
    {"role": "user", "content": " 海は何色ですか？ </s> "},
    {"role": "assistant", "content": "青い"},
    {"role": "user", "content": "空は？"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    own = train_sentencepiece(["海は青い。空も青い。 user assistant: blue sea"] * 40, folder / "vocab", vocab_size=330)
    own.chat_template = TEMPLATE
    own.export_hf(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return own, transformers.AutoTokenizer.from_pretrained(folder), folder


@pytest.mark.parametrize("byte_level", [False, True])
@pytest.mark.parametrize(("talk", "ask"), [(TALK, True), (TALK[:1], True), (TALK[:2], False)])
def test_text_and_ids_are_those_of_transformers(tokenizer, byte_level, talk, ask):
    own, theirs, folder = tokenizer
    if byte_level:  # the same vocabulary read from its tokenizer.json
        own, template = HFTokenizer.from_file(folder / "tokenizer.json"), own.chat_template
        own.chat_template = template
    wanted = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=ask, continue_final_message=not ask)
    chat = ChatTemplate(own)
    text = chat.render(talk, ask)
    assert text == wanted
    assert chat.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert chat.encode(text)[0] == own.bos_id and own.bos_id not in own.encode(text)  # a text alone never makes it


def test_what_can_not_be_written_is_a_sentence(tokenizer):
    own = tokenizer[0]
    with pytest.raises(JaLlmError, match=r"refuses this dialogue \(no system\)"):
        ChatTemplate(own).render([{"role": "system", "content": "x"}])
    try:
        own.chat_template = "{% for %}"
        with pytest.raises(JaLlmError, match="no Jinja text"):
            ChatTemplate(own)
        own.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
        with pytest.raises(JaLlmError, match="refuses this dialogue"):
            ChatTemplate(own).render(TALK)
        own.chat_template = None
        with pytest.raises(UsageError, match="has no chat template"):
            ChatTemplate(own)
    finally:
        own.chat_template = TEMPLATE
