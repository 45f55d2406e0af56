"""Links for the site: a page may link to files of the repository that the site does not have.

On GitHub such a link leads to the file. On the site its text is left, and a link to the README leads to the home page,
which stands for it. `mkdocs.yml` names this module as a hook.
"""

import posixpath
import re
from pathlib import Path

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>(?![\w+]+:|#)[^)\s]+)\)")
HOME = {"../README.md": "index.md"}


def on_page_markdown(markdown, *, page, config, files):
    """Return the text of a page with links for the site. One to a file that is nowhere stays, and fails the build."""
    folder = posixpath.dirname(page.file.src_uri)

    def site_link(link):
        path = posixpath.normpath(posixpath.join(folder, link["target"].partition("#")[0]))
        if path in HOME:
            return f"[{link['text']}]({posixpath.relpath(HOME[path], folder or '.')})"
        source = files.get_file_from_path(path)
        is_left_out = path.startswith("../") if source is None else source.inclusion.is_excluded()
        return link["text"] if is_left_out and Path(config.docs_dir, path).exists() else link[0]

    return LINK.sub(site_link, markdown)
