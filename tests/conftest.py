"""Every test runs on 8 virtual CPU devices with every annotation of the package checked."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jaxtyping  # noqa: E402

jaxtyping.install_import_hook("gemini_mini", "beartype.beartype")
