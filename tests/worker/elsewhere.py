"""Another program, which shares the store and knows nothing of the shop."""

import outlast

stranger = outlast.Agent("stranger", model="claude-haiku-5-5", max_tokens=256)
