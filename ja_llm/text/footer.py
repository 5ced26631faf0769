"""The foot of a web page that an extractor takes for text: copyright, links to policies, sharing buttons, page navigation.

The rule is Swallow Corpus v1's (NLP2024 paper and code): a line belongs to the foot if keywords make up more than 30 % of its
characters; the text is cut from the first such line on, of the last 3 lines (paper) or of the last 10 (code). The keywords are our own.
Swallow looks once; here the cut is repeated until no such line is left at the end, so that a second run changes nothing.
"""

import re

SHARE = 0.3  # of a line's characters

KEYWORDS = (
    # rights
    "著作権", "無断転載", "無断複製", "転載禁止", "複製を禁じます", "禁無断転載", "Copyright", "All Rights Reserved", "©",
    # about the site
    "プライバシーポリシー", "個人情報保護方針", "個人情報の取り扱い", "利用規約", "免責事項", "特定商取引法に基づく表記", "サイトポリシー",
    "サイトマップ", "運営会社", "会社概要", "お問い合わせ", "お問合せ", "広告掲載", "このサイトについて", "採用情報", "よくあるご質問",
    # moving about
    "トップページ", "ページトップ", "ページの先頭へ", "ページ上部へ", "上へ戻る", "ホームに戻る", "トップに戻る", "一覧へ戻る", "一覧に戻る",
    "前のページ", "次のページ", "前の記事", "次の記事", "前へ", "次へ", "もっと見る", "続きを読む", "関連記事", "関連リンク", "人気記事", "最新記事",
    "バックナンバー",
    # reactions and sharing
    "コメントを書く", "コメントを投稿", "コメント(0)", "トラックバック", "ツイート", "シェアする", "いいね", "はてなブックマーク", "ブックマークに追加",
    "この記事をシェア", "フォローする", "メールマガジン", "RSS",
    # accounts
    "ログイン", "新規登録", "会員登録", "パスワードを忘れた",
)  # fmt: skip
_KEYWORD = re.compile("|".join(re.escape(word) for word in sorted(KEYWORDS, key=len, reverse=True)), re.IGNORECASE)


def keyword_share(line: str) -> float:
    """Share of a line's characters, without white space at its ends, that lie in a keyword (longest first, not overlapping).

    Example:
      >>> keyword_share("利用規約 | 会社概要"), keyword_share("")
      (0.7272727272727273, 0.0)
    """
    line = line.strip()
    return sum(len(word) for word in _KEYWORD.findall(line)) / len(line) if line else 0.0


def cut_footer(text: str, last: int = 10) -> str:
    r"""The text without its foot.

    Args:
      text: lines separated by "\n".
      last: how many lines, not counting empty ones, are looked at from the end; 0 leaves the text as it is.

    Example:
      >>> cut_footer("本文です。\n\n前の記事 | 次の記事\n2024年の記事")
      '本文です。'
      >>> cut_footer("お問い合わせはこちらの窓口で、平日の九時から五時まで受け付けています。")
      'お問い合わせはこちらの窓口で、平日の九時から五時まで受け付けています。'
    """
    lines = text.split("\n")
    while (cut := _first(lines, last)) is not None:
        del lines[cut:]
    return "\n".join(lines).rstrip() if len(lines) <= text.count("\n") else text


def _first(lines: list[str], last: int) -> int | None:
    """Index of the first line of the foot among the last non-empty ones."""
    found, seen = None, 0
    for index in range(len(lines) - 1, -1, -1):
        if seen == last:
            break
        if lines[index].strip():
            seen += 1
            if keyword_share(lines[index]) > SHARE:
                found = index
    return found
