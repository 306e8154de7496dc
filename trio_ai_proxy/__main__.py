"""`python -m trio_ai_proxy`: the same as the command `trio-ai-proxy`."""

from __future__ import annotations

import sys

from trio_ai_proxy.cli import main

sys.exit(main())
