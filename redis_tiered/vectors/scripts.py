"""What changes a collection in Redis, each in one step.

The hash `meta` names the generation that is read (`g`), its layout (`l`), the version up to which
it has every change (`w`, the water mark), the version up to which removals are forgotten (`f`) and how
many documents there are (`n`).
Changes may come in any order: a range that comes early waits in a sorted set until those before it
are there. Each document keeps the version that wrote it and takes none that is older, so a change
that comes twice, or late, does nothing.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "APPLY",
    "CHANGES",
    "CLEAR",
    "COUNTED",
    "FORGET",
    "FORGET_BUILD",
    "HELD",
    "RECOUNT",
    "RELEASE",
    "REMEMBERED",
    "SWITCH",
    "TAKE_USES",
]

# Removals that are remembered in Redis: who tails the changes from before them loads all anew.
REMEMBERED: Final = 100_000

# An id as the end of a key: the search module reads a key up to NUL. See `search_schema.key_part`.
_NAMED: Final = """
local function named(id)
  return (string.gsub(id, '[%z%%]', {['\\0'] = '%00', ['%'] = '%25'}))
end
"""

# Applies changes.
# KEYS: meta, early, ids, gone, expiring; then of engine `local` the hashes of vectors, metadata
# and contents, of `redisvl` what the documents' keys start with.
# ARGV: mode, generation, layout, whether to make it if there is none, version before, version
# after, engine; then for each change `u` or `r`, id, version, when it expires (0: never; of `r`:
# only if it expires until then), the number of words that follow, and these. `u` and a version:
# only if the document is of that now.
# Modes: `apply`; `number`, where Redis is all there is and gives versions (those in ARGV count
# from 1, and `version after` is how many); `fill`, for a generation that is not read yet.
# Gives a status, the water mark or what is there instead, and how many documents were removed.
APPLY: Final = (
    _NAMED
    + """
if redis.replicate_commands then redis.replicate_commands() end
local mode, engine = ARGV[1], ARGV[7]
local before, after, water = tonumber(ARGV[5]), tonumber(ARGV[6]), -1
local new = false
if mode ~= 'fill' then
  local meta = redis.call('HMGET', KEYS[1], 'g', 'l', 'w')
  if not meta[1] then
    if ARGV[4] ~= '1' then return {'absent', '', 0} end
    new = true
    meta = {ARGV[2], ARGV[3], '0'}
  end
  if meta[1] ~= ARGV[2] then return {'generation', meta[1], 0} end
  if meta[2] ~= ARGV[3] then return {'layout', meta[2], 0} end
  water = tonumber(meta[3])
  if mode == 'number' then before, after = water, water + after end
  if after <= water then return {'done', meta[3], 0} end
  if new then redis.call('HSET', KEYS[1], 'g', ARGV[2], 'l', ARGV[3], 'w', 0, 'f', 0, 'n', 0) end
end
local added, removed, forgetful = 0, 0, false
local i = 8
while i <= #ARGV do
  local id, version, expires, words = ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], tonumber(ARGV[i + 4])
  if mode == 'number' then version = before + version end
  local at = redis.call('ZSCORE', KEYS[3], id)
  local gone = redis.call('ZSCORE', KEYS[4], id)
  local kind, of = string.sub(ARGV[i], 1, 1), string.sub(ARGV[i], 2)
  if version > water and version > tonumber(at or '-1') and version > tonumber(gone or '-1')
    and (of == '' or tonumber(of) == tonumber(at or '-1')) then
    if kind == 'u' then
      local stamp = struct.pack('>i8', version)
      if engine == 'local' then
        redis.call('HSET', KEYS[6], id, stamp .. ARGV[i + 5])
        if words > 1 then redis.call('HSET', KEYS[7], id, stamp .. ARGV[i + 6]) end
        if words > 2 then redis.call('HSET', KEYS[8], id, stamp .. ARGV[i + 7])
        elseif at then redis.call('HDEL', KEYS[8], id) end
      else
        local key = KEYS[6] .. named(id)
        if at then redis.call('DEL', key) end
        redis.call('HSET', key, '__n', string.format('%.0f', version), unpack(ARGV, i + 5, i + 4 + words))
        if expires ~= '0' then redis.call('PEXPIREAT', key, expires) end
      end
      if not at then added = added + 1 end
      redis.call('ZADD', KEYS[3], version, id)
      if gone then redis.call('ZREM', KEYS[4], id) end
      if expires ~= '0' then redis.call('ZADD', KEYS[5], expires, id)
      elseif at then redis.call('ZREM', KEYS[5], id) end
    elseif expires == '0' or tonumber(redis.call('ZSCORE', KEYS[5], id) or 1e18) <= tonumber(expires) then
      redis.call('ZADD', KEYS[4], version, id)
      forgetful = true
      if at then
        removed = removed + 1
        redis.call('ZREM', KEYS[3], id)
        redis.call('ZREM', KEYS[5], id)
        if engine == 'local' then
          for key = 6, 8 do redis.call('HDEL', KEYS[key], id) end
        else redis.call('DEL', KEYS[6] .. named(id)) end
      end
    end
  end
  i = i + 5 + words
end
if mode == 'fill' then return {'ok', '', removed} end
if before > water then
  redis.call('ZADD', KEYS[2], before, string.format('%.0f-%.0f', before, after))
else
  water = after
  while true do
    local next = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', water, 'LIMIT', 0, 1)[1]
    if not next then break end
    redis.call('ZREM', KEYS[2], next)
    water = math.max(water, tonumber(string.match(next, '-(%d+)$')))
  end
  redis.call('HSET', KEYS[1], 'w', string.format('%.0f', water))
end
if added ~= removed then redis.call('HINCRBY', KEYS[1], 'n', added - removed) end
local surplus = forgetful and redis.call('ZCARD', KEYS[4]) - REMEMBERED or 0
if surplus > 0 then
  local last = redis.call('ZRANGE', KEYS[4], surplus - 1, surplus - 1, 'WITHSCORES')
  if tonumber(last[2]) <= water then
    redis.call('ZREMRANGEBYRANK', KEYS[4], 0, surplus - 1)
    redis.call('HSET', KEYS[1], 'f', last[2])
  end
end
return {'ok', string.format('%.0f', water), removed}
""".replace("REMEMBERED", str(REMEMBERED))
)

# Begins a generation that is empty. Changes that came early are asked for again.
# KEYS: meta, generations. ARGV: generation, layout, version ('': Redis gives it).
# Gives the generation before, or nothing if it has a later change already.
CLEAR: Final = """
if redis.replicate_commands then redis.replicate_commands() end
local meta = redis.call('HMGET', KEYS[1], 'g', 'w')
local water = tonumber(meta[2] or '0')
local version = ARGV[3] == '' and water + 1 or tonumber(ARGV[3])
if meta[1] and version <= water then return {'', ''} end
version = string.format('%.0f', version)
redis.call('HSET', KEYS[1], 'g', ARGV[1], 'l', ARGV[2], 'w', version, 'f', version, 'n', 0)
redis.call('SADD', KEYS[2], ARGV[1])
return {meta[1] or '', version}
"""

# Lets readers go over to a generation that was built, unless somebody else's is later.
# KEYS: meta, build, generations, ids. ARGV: generation, layout, version it is complete up to.
# Gives the generation before, or nothing if it was not wanted any more.
SWITCH: Final = """
if redis.replicate_commands then redis.replicate_commands() end
if redis.call('HGET', KEYS[2], 'g') ~= ARGV[1] then return {'lost', ''} end
local meta = redis.call('HMGET', KEYS[1], 'g', 'l', 'w')
local count = redis.call('ZCARD', KEYS[4])
redis.call('HSET', KEYS[1], 'g', ARGV[1], 'l', ARGV[2], 'w', ARGV[3], 'f', ARGV[3], 'n', count)
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[2])
return {'ok', meta[1] or ''}
"""

# Forgets a generation that is being built. KEYS: build. ARGV: generation.
FORGET_BUILD: Final = """
if redis.call('HGET', KEYS[1], 'g') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# For each document its version (-1: none) and whether it is whole.
# KEYS: ids, then as for APPLY. ARGV: engine, in how many hashes a document is, ids.
HELD: Final = (
    _NAMED
    + """
local found = {}
for i = 3, #ARGV do
  local version, whole = redis.call('ZSCORE', KEYS[1], ARGV[i]), 1
  if ARGV[1] == 'local' then
    for key = 2, 1 + ARGV[2] do whole = whole * redis.call('HEXISTS', KEYS[key], ARGV[i]) end
  else whole = redis.call('EXISTS', KEYS[2] .. named(ARGV[i])) end
  found[#found + 1] = version or '-1'
  found[#found + 1] = whole
end
return found
"""
)

# Takes documents out of a generation without a trace, if they are still of these versions.
# KEYS: early, ids, gone, expiring, then as for APPLY. ARGV: engine, then ids and versions.
FORGET: Final = (
    _NAMED
    + """
local forgotten = 0
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  if tonumber(redis.call('ZSCORE', KEYS[2], id) or '-1') == tonumber(ARGV[i + 1]) then
    forgotten = forgotten + 1
    for key = 2, 4 do redis.call('ZREM', KEYS[key], id) end
    if ARGV[1] == 'local' then
      for key = 5, 7 do redis.call('HDEL', KEYS[key], id) end
    else redis.call('DEL', KEYS[5] .. named(id)) end
  end
end
return forgotten
"""
)

# How many documents there should be, and are. KEYS: meta, ids.
COUNTED: Final = """
return {tonumber(redis.call('HGET', KEYS[1], 'n') or '0'), redis.call('ZCARD', KEYS[2])}
"""

# Notes that there are as many documents as there are. KEYS: meta, ids. ARGV: generation.
RECOUNT: Final = """
if redis.call('HGET', KEYS[1], 'g') ~= ARGV[1] then return 0 end
return redis.call('HSET', KEYS[1], 'n', redis.call('ZCARD', KEYS[2]))
"""

# What changed, for who has an index: all in one reply, with what it is to be known by.
# KEYS: meta, ids, gone. ARGV: after which version documents were written, and removed, as bounds of
# ZRANGEBYSCORE; how many of each at most; a token.
CHANGES: Final = """
return {redis.call('HMGET', KEYS[1], 'g', 'l', 'w', 'f', 'n'),
  redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3]),
  redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3]), ARGV[4]}
"""

# Takes what was counted. KEYS: uses, used.
TAKE_USES: Final = """
local taken = {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
redis.call('DEL', KEYS[1], KEYS[2])
return taken
"""

# Gives a lease back. KEYS: lease. ARGV: its token.
RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
