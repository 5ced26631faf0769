"""The preset's order and edges in the stages behind selection: each gap between paper and code is one binding."""

from beam_pipelines import chain, config
from beam_pipelines.modify import modify


def test_hosts_and_modification_come_last_and_as_the_code_has_them():
    v1 = config.load("swallow_v1")
    assert [spec.name for spec in chain.specs(v1)][-5:] == ["minhash", "dedup", "host_filter", "modify", "split"]
    assert (v1.host_filter.match, v1.modify.footer_lines, v1.expressions.ng_share_from) == ("exact", 10, 0.05)
    assert len(v1.host_filter.categories) == 17 and "audio-video" not in v1.host_filter.categories
    assert (v1.modify.form, v1.modify.widths, tuple(v1.modify.personal)) == ("", "", ()), "v1 neither folds nor redacts"
    paper = config.load("swallow_v1", ["corpus.Modify.footer_lines = 3", "corpus.HostFilter.match = 'suffix'"])
    text = "本文です。\n利用規約\n" + "\n".join(["雨，風"] * 3)
    assert modify(text, v1.modify, "ja").text == "本文です。" and modify(text, paper.modify, "ja").text == text.replace(
        "，", "、"
    )
    assert chain.side_files(v1) == {}, "without a list of one's own there is nothing to read"
