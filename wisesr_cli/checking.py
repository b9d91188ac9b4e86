"""Checks a config with its image folders, without Keras: what training would refuse, and what it would suffer from."""

from __future__ import annotations

from wisesr_cli.backbones import BACKBONES
from wisesr_cli.config import Config, position_warning
from wisesr_cli.dataset import inspect_data
from wisesr_cli.results import CheckResult, Finding, Listener
from wisesr_cli.text import counted


def check_config(config: Config, listener: Listener) -> CheckResult:
    """Return all findings: about the settings first, then about the images."""
    findings = [
        Finding("pass", "config", f"{config.model.backbone} with the head '{config.model.head.name}'"),
        *_about_settings(config),
        *inspect_data(config.data, seed=config.seed, listener=listener),
    ]
    return CheckResult(tuple(findings))


def _about_settings(config: Config) -> list[Finding]:
    findings = []
    height, width = config.data.image_size
    minimum = BACKBONES[config.model.backbone].minimum_size
    if min(height, width) < minimum:
        message = f"{height}x{width} is too small for {config.model.backbone}, which needs {minimum}x{minimum}"
        findings.append(Finding("fail", "image-size", message))
    if warning := position_warning(config.augmentation, config.model.head):
        findings.append(Finding("warn", "augmentation", warning))
    if config.train.phases:
        frozen = sum(phase.epochs for phase in config.train.phases if phase.freeze == "backbone")
        if frozen and config.model.weights is None:
            message = f"{counted(frozen, 'epoch')} train a head on a frozen backbone of random weights"
            findings.append(Finding("warn", "frozen-random-backbone", message))
    return findings
