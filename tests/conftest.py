"""Every test runs on 8 virtual CPU devices with every annotation of the package checked."""

import os

DEVICES = "--xla_force_host_platform_device_count"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):  # a process of several that share a test has fewer
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jaxtyping  # noqa: E402

jaxtyping.install_import_hook("gemini_mini", "beartype.beartype")
