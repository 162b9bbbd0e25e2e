"""What a document store knows, one fact per name of a map, and the flows that read and change it.

    n/<node>             the node itself
    h/<node>             its hash
    s/<node>             [id of its source, its place among the source's nodes]
    r/<source>/<node>    1: so that a source's nodes can be listed
    i/<source>           the metadata of the source
    v                    changes with every hash; see `_hashes`

Nobody who writes one fact overwrites another's, and all facts of a change are one transaction. Where
writers at once leave an `r/` behind that `s/` does not agree with, `s/` is right. A source is there as
long as a node is of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import RefDocInfo

from llamaindex_redis_tiered._blocks import READERS
from llamaindex_redis_tiered._hashes import PREFIX, Hashes
from llamaindex_redis_tiered._nodes import dumped_metadata, dumped_node, node_of, source_of
from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput
from redis_tiered.flow import Flow
from redis_tiered.maps.map import Data, Map
from redis_tiered.values import Writer, loaded

__all__ = ["Documents", "absent", "node_name", "read_fact"]

_FACTS: Final = 10_000  # per page
_NODES: Final = 500
_MARK: Final = Writer().dumped(1)


def read_fact(data: Data) -> Any:
    """A node, a hash, a source with a place, or metadata."""
    fact = loaded(data, READERS)
    if type(fact) is not dict:
        return fact
    return node_of(fact) if "node" in fact else fact["metadata"]


def absent(doc_id: str) -> InvalidInput:
    return InvalidInput(f"doc_id {doc_id!r:.200} not found")


def node_name(argument: str, id: object) -> str:
    return "n/" + text(argument, id)


def _hash_name(id: str) -> str:
    return PREFIX + id


def _source_name(id: str) -> str:
    return "s/" + id


def _info_name(source: str) -> str:
    return "i/" + source


def _members(source: str) -> str:
    return f"r/{quote(source, safe='')}/"


class Documents:
    """The facts of one document store.

    Args:
        map: where they are.
    """

    def __init__(self, map: Map[Any]) -> None:
        self._map = map
        self._hashes = Hashes(map)

    # Changing.

    def add(self, docs: Sequence[BaseNode], allow_update: bool, store_text: bool) -> Flow[None]:
        """Write nodes and all that is known by them, in one transaction."""
        put: dict[str, bytes] = {}
        sources: dict[str, str | None] = {}  # in the order of the nodes; of the same id the last
        given: dict[str, dict[str, Any]] = {}  # metadata by source
        for i, node in enumerate(docs):
            where = f"docs[{i}]"
            if not isinstance(node, BaseNode):
                raise InvalidInput(f"{where} must be a node, got {type(node).__name__}")
            text(f"{where}.id_", node.node_id, least=1)
            if store_text:
                put[node_name(where, node.node_id)] = dumped_node(node, where)
            source = source_of(node, where)
            put[_hash_name(node.node_id)] = _dumped(node.hash)
            sources[node.node_id] = source
            if source is not None:
                text(f"{where}.ref_doc_id", source)
                given.setdefault(source, {}).update(node.metadata)
        if not sources:
            return
        refs = list(dict.fromkeys(source for source in sources.values() if source is not None))
        names = [*map(_source_name, sources), *map(_info_name, refs)]
        if not allow_update:
            names += [node_name("doc_id", id) for id in sources]
        known: dict[str, Any] = dict(zip(names, (yield from self._map.having(names)), strict=True))
        if not allow_update:
            for id in sources:
                if known[node_name("doc_id", id)] is not None:
                    raise InvalidInput(
                        f"doc_id {id!r:.200} is there already; allow_update=True replaces it"
                    )
        remove: list[str] = []
        left: dict[str, list[str]] = {}  # nodes by the source that they leave
        now = time.time_ns()
        for i, (id, source) in enumerate(sources.items()):
            before = known[_source_name(id)]
            if before is not None and before[0] != source:
                remove.append(_members(before[0]) + id)
                left.setdefault(before[0], []).append(id)
            if source is not None:
                same = before is not None and before[0] == source
                put[_source_name(id)] = _dumped([source, before[1] if same else now + i])
                put[_members(source) + id] = _MARK
            elif before is not None:
                remove.append(_source_name(id))
        for source in refs:
            # Written again though it is there: somebody may be deleting it.
            metadata = known[_info_name(source)] or given[source]
            if metadata:
                put[_info_name(source)] = dumped_metadata(metadata, "metadata of docs")
        for source, ids in left.items():
            if source not in given and not (yield from self._others(source, ids)):
                remove.append(_info_name(source))
        yield from self._map.changing(put | self._hashes.stamp(), remove)

    def set_hashes(self, hashes: Mapping[str, str]) -> Flow[None]:
        """Write hashes; what else is known of the nodes stays."""
        if not isinstance(hashes, Mapping):
            raise InvalidInput(f"doc_hashes must be a dict, got {type(hashes).__name__}")
        put = {
            _hash_name(text("doc_id", id, least=1)): _dumped(text("doc_hash", hash))
            for id, hash in hashes.items()
        }
        if put:
            yield from self._map.changing(put | self._hashes.stamp())

    def delete(self, id: str) -> Flow[bool]:
        """Delete a node, and its source if no other node is of it; tells whether it was there."""
        hash, source = yield from self._map.having(
            [_hash_name(text("doc_id", id)), _source_name(id)],
        )
        staying = yield from self._delete({id: source and source[0]}, [])
        while staying:
            # Whoever deletes the last but one at the same time finds a node here as well.
            emptied = []
            for ref in staying:
                if not (yield from self._others(ref, ())):
                    emptied.append(ref)
            if not emptied:
                break
            staying = yield from self._delete((yield from self._sources(emptied)), emptied)
        return hash is not None

    def delete_source(self, source: str) -> Flow[bool]:
        """Delete a source and all nodes that are of it, in one transaction; tells whether any was."""
        prefix = _members(text("ref_doc_id", source))
        listed = [name[len(prefix) :] for name, _ in (yield from self._all(prefix, _FACTS))]
        sources = yield from self._sources([*listed, source])
        mine: dict[str, str | None] = {id: source for id in listed if sources[id] == source}
        if not mine:
            return False
        left_over = [prefix + id for id in listed if id not in mine]
        yield from self._delete(mine, [source], sources[source], left_over)
        return True

    def _delete(
        self,
        ids: Mapping[str, str | None],
        emptied: Iterable[str],
        above: str | None = None,
        left_over: Iterable[str] = (),
    ) -> Flow[list[str]]:
        """Delete nodes, and the sources that are left without any, in one transaction.

        Args:
            ids: with their sources.
            emptied: of these sources no node is left.
            above: the source of the one in `emptied`.
            left_over: other names to delete.

        Returns:
            The sources that keep nodes.
        """
        names = [*left_over, *map(_info_name, emptied)]
        staying: list[str] = []
        gone = set(emptied)
        ids = {**ids, **{source: above for source in emptied if source not in ids}}
        while ids:
            leaving: dict[str, list[str]] = {}
            for id, source in ids.items():
                names += ["n/" + id, _hash_name(id), _source_name(id)]
                if source is not None:
                    names.append(_members(source) + id)
                    leaving.setdefault(source, []).append(id)
            empty = []
            for source, nodes in leaving.items():
                if source in gone:
                    continue
                if (yield from self._others(source, nodes)):
                    staying.append(source)
                else:
                    empty.append(source)
            gone.update(empty)
            names += map(_info_name, empty)
            ids = yield from self._sources(empty)
        yield from self._map.changing(self._hashes.stamp(), names)
        return staying

    # Reading.

    def _all(self, prefix: str, limit: int) -> Flow[list[tuple[str, Any]]]:
        found: list[tuple[str, Any]] = []
        after: bytes | None = None
        while True:
            page, after, more = yield from self._map.listing(prefix, after, limit)
            found += page
            if not more:
                return found

    def _others(self, source: str, ids: Sequence[str]) -> Flow[bool]:
        """Whether a source has other nodes than these."""
        prefix = _members(source)
        listed, *_ = yield from self._map.listing(prefix, None, len(ids) + 1)
        return any(name[len(prefix) :] not in ids for name, _ in listed)

    def _sources(self, ids: Sequence[str]) -> Flow[dict[str, str | None]]:
        if not ids:
            return {}
        found = yield from self._map.having([_source_name(id) for id in ids])
        return {id: None if fact is None else fact[0] for id, fact in zip(ids, found, strict=True)}

    def all_nodes(self) -> Flow[dict[str, BaseNode]]:
        """Every node by its id."""
        found = yield from self._all("n/", _NODES)
        return {name[2:]: node for name, node in found}

    def hashes(self, ids: Sequence[str]) -> Flow[list[str | None]]:
        """Hashes in the order of the ids."""
        return (yield from self._hashes.of([text("doc_id", id) for id in ids]))

    def all_hashes(self) -> Flow[dict[str, str]]:
        """Every id by its hash; of several with one hash, the last in the order of ids."""
        found = yield from self._hashes.all()
        return {hash: id for id, hash in found or () if hash}

    def info(self, source: str) -> Flow[RefDocInfo | None]:
        """A source; None: no node is of it."""
        prefix = _members(text("ref_doc_id", source))
        listed = [name[len(prefix) :] for name, _ in (yield from self._all(prefix, _FACTS))]
        if not listed:
            return None
        names = [_info_name(source), *map(_source_name, listed)]
        metadata, *facts = yield from self._map.having(names)
        mine = [
            (fact[1], id)
            for id, fact in zip(listed, facts, strict=True)
            if fact is not None and fact[0] == source
        ]
        if not mine:
            return None
        return RefDocInfo([id for _, id in sorted(mine)], metadata or {})

    def all_infos(self) -> Flow[dict[str, RefDocInfo]]:
        """Every source that a node is of."""
        places: dict[str, list[tuple[int, str]]] = {}
        for name, (source, place) in (yield from self._all("s/", _FACTS)):
            places.setdefault(source, []).append((place, name[2:]))
        found = yield from self._all("i/", _FACTS)
        metadata = {name[2:]: value for name, value in found}
        return {
            source: RefDocInfo([id for _, id in sorted(nodes)], metadata.get(source, {}))
            for source, nodes in places.items()
        }


def _dumped(fact: Any) -> bytes:
    return Writer().dumped(fact)
