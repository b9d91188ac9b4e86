"""The parts of a build that pyproject.toml cannot express: samples in the wheel, and the README for a package index."""

import os
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SAMPLES = "sample_configs"


class BuildWithSamples(build_py):
    """Copies sample_configs/, which is next to the package, into it; an editable install finds it in its place."""

    def run(self):
        """Build the package, then copy the samples."""
        super().run()
        for source, target in self._samples().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode=1):
        """Return all built files."""
        return [*super().get_outputs(include_bytecode), *self._samples().values()]

    def _samples(self):
        if self.editable_mode:
            return {}
        files = [path.relative_to(ROOT) for path in sorted((ROOT / SAMPLES).rglob("*.yaml"))]
        return {str(path): str(Path(self.build_lib, "wisesr_cli", path)) for path in files}


def readme(repository, tag):
    """Return the README with links that work outside the repository: absolute ones or, without an address, none."""

    def link(found):
        mark, text, target = found.groups()
        if re.match(r"https?:", target):
            return found.group()
        if not repository or target.startswith("#"):
            return f"*{text}*" if mark else text
        return f"{mark}[{text}]({repository}/{'raw' if mark else 'blob'}/{tag}/{target})"

    return re.sub(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)", link, (ROOT / "README.md").read_text("utf-8"))


def urls(repository, tag):
    """Return the project links for a package index."""
    found = {"Paper": "https://arxiv.org/abs/2104.12294"}
    if repository:
        found |= {
            "Source": repository,
            "Documentation": f"{repository}/tree/{tag}/docs",
            "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
            "Security": f"{repository}/blob/{tag}/SECURITY.md",
        }
    return found


if __name__ == "__main__":
    # Set by the publishing workflow: https://HOST/OWNER/NAME, and the published tag or commit.
    place = os.environ.get("WISESR_REPOSITORY", ""), os.environ.get("WISESR_TAG", "main")
    setup(
        long_description=readme(*place),
        long_description_content_type="text/markdown",
        project_urls=urls(*place),
        cmdclass={"build_py": BuildWithSamples},
    )
