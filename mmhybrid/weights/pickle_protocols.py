"""Pickles of protocols 3 to 5, rewritten in the one that PyTorch's restricted reader knows."""

import collections
import itertools
import pickle
import pickletools
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from mmhybrid.weights.errors import refuse

MOST_INSTRUCTIONS = 2 * 10**6
LONGEST_NAME = 200  # of a class or function
FIRST_TEXT = 2**31  # the place of texts in a memo


def instructions(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, Any]]:
    """Those of a pickle, of which there are not too many to follow them."""
    for count, step in enumerate(pickletools.genops(stream)):
        if count >= MOST_INSTRUCTIONS:
            refuse(f"its pickle has more than {MOST_INSTRUCTIONS} instructions")
        yield step


def as_protocol_2(stream: BinaryIO) -> bytes:
    """A pickle in the protocol that PyTorch's restricted reader knows.

    Args:
        stream: open at the pickle; left behind its end.
    """
    start = stream.tell()
    protocol = stream.read(2)
    stream.seek(start)
    is_new = protocol[:1] == b"\x80" and protocol[1] > 2
    steps = collections.deque(instructions(stream), None if is_new else 0)
    end = stream.tell()
    stream.seek(start)
    data = stream.read(end - start)
    if not is_new:
        return data
    places = [place - start for *_, place in steps] + [len(data)]
    # Text stays a Text until the end, because STACK_GLOBAL takes back the two before it.
    written: list[bytes | Text] = [b"\x80\x02"]
    texts: dict[int, Text] = {}
    marks: list[int] = []
    remembered = 0
    for index, (opcode, value, _) in enumerate(steps):
        name = opcode.name
        if pickletools.markobject in opcode.stack_before:
            mark = marks.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            place = remembered if name == "MEMOIZE" else value
            remembered += 1
            texts.pop(place, None)
            if isinstance(written[-1], Text):
                texts[place] = written[-1]
            else:
                written.append(b"r" + struct.pack("<I", place))
        elif name in ("BINGET", "LONG_BINGET"):
            written.append(texts[value] if value in texts else b"j" + struct.pack("<I", value))
        elif "UNICODE" in name:
            written.append(Text(value))
        elif name == "STACK_GLOBAL":
            attribute, module = written.pop().text, written.pop().text
            if len(module) + len(attribute) > LONGEST_NAME:
                refuse(f"it asks for {module[:40]}...{attribute[-40:]}")
            written.append(f"c{module}\n{attribute}\n".encode())
        elif "BINBYTES" in name:
            text, encoding = Text(value.decode("latin1")), Text("latin1")
            written += [b"c_codecs\nencode\n", text, encoding, b"\x86R"]
        elif name == "FROZENSET":
            written[mark] = b"c__builtin__\nfrozenset\n("
            written.append(b"t\x85R")
        elif name == "ADDITEMS":
            # The empty set before the mark, maybe put into the memo, becomes a call with a list.
            place = mark - 1 if written[mark - 1] == pickle.EMPTY_SET else mark - 2
            if written[place] != pickle.EMPTY_SET:
                refuse("it fills a set in several steps")
            written[place:mark] = [b"c__builtin__\nset\n]"] + [b""] * (mark - place - 1)
            written.append(b"e\x85R")
        else:
            if name == "MARK":
                marks.append(len(written))
            written.append(data[places[index] : places[index + 1]])
    new_places = itertools.count(FIRST_TEXT)
    return b"".join(one.written(new_places) if isinstance(one, Text) else one for one in written)


class Text:
    """A text of a pickle, which is written once and taken from the memo from then on."""

    __slots__ = ("place", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.place: int | None = None

    def written(self, places: Iterator[int]) -> bytes:
        """The instructions that push it."""
        if self.place is not None:
            return b"j" + struct.pack("<I", self.place)
        encoded = self.text.encode("utf-8", "surrogatepass")
        text = b"X" + struct.pack("<I", len(encoded)) + encoded
        self.place = next(places)
        return text + b"r" + struct.pack("<I", self.place)
