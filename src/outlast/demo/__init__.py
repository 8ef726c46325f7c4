"""The demo: a proposal out of 4,495 real grants, with a Claude that follows a script.

`grants` finds, `agent` declares, `script` speaks.  The script really calls the tools and writes
its answers from what they returned; with a key the same flow asks the real Claude.
"""
