"""What the processes of `test_processes.py` do: one word says which, a line says when.

Usage: process.py WHAT STORE …; prints a line when it is ready, and goes on with each line it reads.
"""

import asyncio
import os
import sys

from outlast.errors import Busy, OutlastError
from outlast.stores import open_store as open_synced
from outlast.testing.commits import begin, driven, note, row


def open_store(url):
    """Open a store without syncs: a process that ends takes nothing of the disk's with it."""
    return open_synced(url, synchronous="OFF")


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def wait():
    sys.stdin.readline()


def append(store, name, count):
    """Append to an own run and to the shared one, as fast as it goes."""
    journal = open_store(store)
    stream = begin(journal, name)
    epoch = journal.claim(stream)
    say("ready")
    wait()
    for seq in range(2, 2 + int(count)):
        journal.append(driven(stream, epoch, seq, row=row(name, turns=seq)))
        journal.append(note("run:shared", name))
    journal.close()
    say("done")


def append_synced(store, name, count):
    """Append with syncs: whoever writes holds the store for longer than it lets go of it."""
    globals()["open_store"] = open_synced
    append(store, name, count)


def aappend(store, name, count):
    """Do the same with five runs at once in groups."""
    journal = open_store(store)

    async def one(number):
        stream = begin(journal, f"{name}-{number}")
        epoch = journal.claim(stream)
        for seq in range(2, 2 + int(count)):
            await journal.aappend(driven(stream, epoch, seq))
            await journal.aappend(note("run:shared", name))

    async def all_of_them():
        await asyncio.gather(*map(one, range(5)))

    say("ready")
    wait()
    asyncio.run(all_of_them())
    journal.close()
    say("done")


def create(store, name):
    """Open stores that do not exist yet, together with others."""
    say("ready")
    wait()
    for number in range(20):
        journal = open_store(f"{store}-{number}")
        begin(journal, name)
        journal.close()
    say("done")


def drive(store, name):
    """Claim a run, then append to it once for each line."""
    journal = open_store(store)
    epoch = journal.claim(f"run:{name}")
    seq = 2
    say(f"claimed {epoch}")
    while sys.stdin.readline():
        try:
            journal.append(driven(f"run:{name}", epoch, seq))
            seq += 1
            say("appended")
        except OutlastError as error:
            say(type(error).__name__)


def take_over(store, name):
    """Claim a run by force, then look for each line who holds it."""
    journal = open_store(store)
    journal.claim(f"run:{name}", force=True)
    say("claimed")
    while sys.stdin.readline():
        say(" ".join(journal.unheld([f"run:{name}"])) or "held")


def hold(store, *names):
    """Claim runs, and keep them until a line comes."""
    journal = open_store(store)
    for name in names:
        journal.claim(f"run:{name}")
    say("claimed")
    wait()


def claim_often(store, name, count):
    """Claim a run and let go of it, and count how often somebody else had it."""
    journal = open_store(store)
    say("ready")
    wait()
    refused = 0
    for _ in range(int(count)):
        try:
            journal.claim(f"run:{name}")
        except Busy:
            refused += 1
        journal.release(f"run:{name}")
    say(f"refused {refused}")


def acknowledge(store, name):
    """Append for ever, and say so each time."""
    journal = open_store(store)
    while True:
        say(journal.append(note(f"run:{name}"))[0].seq)


def hog(store):
    """Begin to write and never finish, until a line comes."""
    journal = open_store(store)
    journal._writer._execute("BEGIN IMMEDIATE")
    say("writing")
    wait()
    journal._writer._execute("ROLLBACK")
    say("over")
    wait()


def fork(store, name):
    """Use a store in a process forked from the one that opened it; then open it there anew."""
    journal = open_store(store)
    begin(journal, name)

    def attempt(use):
        try:
            use()
        except OutlastError as error:
            return f"{type(error).__name__}: {error}"
        return "it worked"

    child = os.fork()
    if not child:
        say(attempt(lambda: journal.append(note(f"run:{name}"))))
        say(attempt(lambda: journal.read(f"run:{name}")))
        say(attempt(lambda: open_store(store)))
        journal.close()
        os._exit(0)
    os.waitpid(child, 0)
    say(attempt(lambda: journal.append(note(f"run:{name}"))))
    journal.close()
    child = os.fork()
    if not child:
        # Nothing was open when this one was forked.
        say(attempt(lambda: open_store(store).append(note(f"run:{name}"))))
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
