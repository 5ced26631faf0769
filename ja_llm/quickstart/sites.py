"""Three invented web sites: what stands around an embedded page and what an extractor must take away.

Each site is a design of its own: `sansaku` is built of HTML5 elements, `garden` is a blog made of divs, `kobo` is an old
hand-made page. They announce the charset as such sites do: in the HTTP header, in both places, or in the page only.
"""

import dataclasses
import html
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Words:
    """The furniture of all sites in one language."""

    menu: tuple[str, str, str, str]
    path: str
    search: str
    cookies: str
    accept: str
    related: str
    share: str
    newsletter: str
    comments: str
    rights: str
    terms: str
    top: str


WORDS = {
    "ja": Words(
        menu=("ホーム", "記事一覧", "このサイトについて", "お問い合わせ"),
        path="読みもの",
        search="サイト内検索",
        cookies="当サイトでは、利便性の向上のためにクッキーを使用しています。閲覧を続けると同意したものとみなされます。",
        accept="同意する",
        related="こちらの記事もおすすめ",
        share="この記事をシェア",
        newsletter="メールマガジンに登録すると新着記事のお知らせが届きます。",
        comments="コメントを書き込むにはログインしてください。",
        rights="無断転載を禁じます。",
        terms="利用規約・プライバシーポリシー",
        top="ページの先頭へ戻る",
    ),
    "en": Words(
        menu=("Home", "All articles", "About us", "Contact"),
        path="Reading",
        search="Search this site",
        cookies="We use cookies to improve your experience on this website. By continuing to browse you agree to their use.",
        accept="Accept all",
        related="You may also like",
        share="Share this article",
        newsletter="Subscribe to our newsletter and never miss a new post.",
        comments="Please log in to leave a comment.",
        rights="All rights reserved.",
        terms="Terms of use and privacy policy",
        top="Back to top",
    ),
    "zh": Words(
        menu=("首页", "全部文章", "关于我们", "联系方式"),
        path="阅读",
        search="站内搜索",
        cookies="本网站使用缓存文件来改善您的浏览体验，继续浏览即表示您同意。",
        accept="同意",
        related="相关阅读",
        share="分享本文",
        newsletter="订阅邮件，第一时间获取新文章。",
        comments="登录后才能发表评论。",
        rights="版权所有，未经许可不得转载。",
        terms="使用条款和隐私政策",
        top="返回顶部",
    ),
    "de": Words(
        menu=("Startseite", "Alle Beiträge", "Über uns", "Kontakt"),
        path="Lesestoff",
        search="Diese Seiten durchsuchen",
        cookies="Wir verwenden Cookies, damit Sie unsere Seiten bequemer nutzen können. Wer weiterliest, stimmt dem zu.",
        accept="Einverstanden",
        related="Das könnte Sie auch interessieren",
        share="Diesen Beitrag teilen",
        newsletter="Mit unserem Rundbrief erfahren Sie von neuen Beiträgen.",
        comments="Bitte melden Sie sich an, um einen Kommentar zu schreiben.",
        rights="Alle Rechte vorbehalten.",
        terms="Nutzungsbedingungen und Datenschutz",
        top="Zum Seitenanfang",
    ),
    "fr": Words(
        menu=("Accueil", "Tous les articles", "Qui sommes-nous", "Contact"),
        path="Lectures",
        search="Chercher sur ce site",
        cookies="Nous utilisons des cookies pour rendre votre visite plus agréable. En poursuivant, vous acceptez leur emploi.",
        accept="Tout accepter",
        related="À lire aussi",
        share="Partager cet article",
        newsletter="Inscrivez-vous à notre lettre pour être informé des nouveaux articles.",
        comments="Connectez-vous pour laisser un commentaire.",
        rights="Tous droits réservés.",
        terms="Conditions d'utilisation et vie privée",
        top="Haut de la page",
    ),
    "ko": Words(
        menu=("홈", "전체 글", "사이트 소개", "문의하기"),
        path="읽을거리",
        search="사이트 검색",
        cookies="이 사이트는 더 나은 이용 환경을 위해 쿠키를 사용합니다. 계속 이용하시면 동의한 것으로 봅니다.",
        accept="동의",
        related="함께 읽으면 좋은 글",
        share="이 글 공유하기",
        newsletter="구독하시면 새 글 소식을 메일로 보내 드립니다.",
        comments="댓글을 쓰려면 로그인하세요.",
        rights="무단 전재를 금합니다.",
        terms="이용 약관 및 개인정보 처리방침",
        top="맨 위로",
    ),
}


@dataclasses.dataclass(frozen=True)
class Site:
    """One web site.

    Attributes:
      host: a name under `.example`, which RFC 2606 reserves.
      name: what the site calls itself.
      address: path of a page, with {lang}, {slug}, {year}, {month}.
      in_header: the HTTP header names the charset.
      template: (site, page, words, links to related pages as (title, address)) -> HTML.
    """

    host: str
    name: str
    address: str
    in_header: bool
    template: Callable[["Site", Any, Words, Sequence[tuple[str, str]]], str]

    def url(self, page: Any) -> str:
        """Address of a page on this site."""
        year, month, _ = page.date.split("-")
        return f"https://{self.host}/" + self.address.format(lang=page.lang, slug=page.slug, year=year, month=month)

    def content_type(self, page: Any) -> str:
        """The Content-Type header that this site sends with a page."""
        return f"text/html; charset={page.charset}" if self.in_header else "text/html"

    def render(self, page: Any, related: Sequence[Any]) -> str:
        """The whole HTML document of a page."""
        links = [(html.escape(other.title), other.url) for other in related]
        return self.template(self, page, furniture(page.lang), links)


def furniture(lang: str) -> Words:
    """The furniture's words for a page's language; Japanese where there is no such language."""
    return WORDS.get(lang, WORDS["ja"])


def _items(links: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<li><a href="{url}">{title}</a></li>' for title, url in links)


def _menu(words: Words) -> str:
    return _items(list(zip(words.menu, ("/", "/archive/", "/about/", "/contact/"), strict=True)))


def _sansaku(site: Site, page: Any, words: Words, links: Sequence[tuple[str, str]]) -> str:
    title = html.escape(page.title)
    return f"""<!DOCTYPE html>
<html lang="{page.lang}">
<head>
<title>{title} | {site.name}</title>
<meta name="viewport" content="width=device-width">
<script>window.dataLayer = window.dataLayer || []; window.dataLayer.push({{"page": "{page.slug}"}});</script>
</head>
<body>
<div class="cookie-banner" role="dialog"><p>{words.cookies}</p><button>{words.accept}</button></div>
<header class="site-header"><a href="/" class="logo">{site.name}</a>
<nav class="global-nav"><ul>{_menu(words)}</ul></nav>
<form role="search"><input type="search" placeholder="{words.search}"></form></header>
<nav class="breadcrumb"><a href="/">{words.menu[0]}</a> &gt; <a href="/{page.lang}/">{words.path}</a> &gt; {title}</nav>
<main>
<article>
<h1>{title}</h1>
<time datetime="{page.date}">{page.date}</time>
{page.body}
</article>
</main>
<aside class="related"><h3>{words.related}</h3><ul>{_items(links)}</ul></aside>
<footer class="site-footer"><ul>{_menu(words)}</ul><p>{words.terms}</p>
<p>Copyright &copy; {page.date[:4]} {site.name} {words.rights}</p></footer>
</body>
</html>
"""


def _garden(site: Site, page: Any, words: Words, links: Sequence[tuple[str, str]]) -> str:
    title = html.escape(page.title)
    return f"""<!DOCTYPE html>
<html lang="{page.lang}">
<head>
<meta charset="{page.charset}">
<title>{title} - {site.name}</title>
<style>.entry-content p {{ line-height: 1.8 }} .sidebar {{ float: right }}</style>
</head>
<body class="single">
<div id="header"><div class="site-title"><a href="/">{site.name}</a></div>
<div class="menu"><ul>{_menu(words)}</ul></div></div>
<div id="wrapper">
<div class="post">
<h1 class="entry-title">{title}</h1>
<div class="post-meta">{page.date}</div>
<div class="entry-content">
{page.body}
</div>
<div class="share-buttons">{words.share}: <a href="#x">X</a> <a href="#m">Mastodon</a> <a href="#mail">Mail</a></div>
<div id="comments" class="comments"><p>{words.comments}</p></div>
</div>
<div id="sidebar" class="sidebar"><div class="widget"><h3>{words.related}</h3><ul>{_items(links)}</ul></div>
<div class="widget newsletter"><p>{words.newsletter}</p></div></div>
</div>
<div id="footer" class="footer"><p>{words.terms}</p><p>&copy; {page.date[:4]} {site.name}. {words.rights}</p></div>
<div id="cookie-notice" class="cookie-notice">{words.cookies} <a href="#ok">{words.accept}</a></div>
</body>
</html>
"""


def _kobo(site: Site, page: Any, words: Words, links: Sequence[tuple[str, str]]) -> str:
    title = html.escape(page.title)
    menu = " | ".join(f'<a href="/">{name}</a>' for name in words.menu)
    return f"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01 Transitional//EN" "http://www.w3.org/TR/html4/loose.dtd">
<html lang="{page.lang}">
<head>
<meta http-equiv="Content-Type" content="text/html; charset={page.charset}">
<title>{site.name} : {title}</title>
</head>
<body bgcolor="#fffff0">
<div id="navi" class="navigation">[ {menu} ]</div>
<div class="breadcrumbs"><a href="/">TOP</a> &gt; <a href="/list.html">{words.path}</a></div>
<hr>
<div id="content">
<h1>{title}</h1>
{page.body}
</div>
<hr>
<div class="related-links"><b>{words.related}</b><ul>{_items(links)}</ul></div>
<div class="footer-nav"><a href="#">{words.top}</a> | <a href="/terms.html">{words.terms}</a></div>
<address class="footer">Copyright (C) {page.date[:4]} {site.name}. {words.rights}</address>
</body>
</html>
"""


SITES = {
    "sansaku": Site("sansaku.example", "Sansaku Notes", "{lang}/{slug}.html", True, _sansaku),
    "garden": Site("garden.example", "Garden and Kitchen", "{lang}/{year}/{month}/{slug}/", True, _garden),
    "kobo": Site("kobo.example", "KOBO workshop", "{slug}_{lang}.html", False, _kobo),
}
