"""The demo: a grant researcher over 4,495 real grants, with a Claude that follows a script.

`grants` finds, `agent` declares, `script` speaks.  The script really calls the tools and writes
its answer from what they returned; with a key the same agent asks the real Claude.
"""
