"""What the sessions have Redis do in one step. Redis 6.2 and Valkey 7.2 run all of it.

KEYS[1] is a hash, KEYS[2] the list of a window's items, both of one slot. Fields of the hash:

    v version of the log (without what waits to be written)   h length of the list
    f ticket of a reader who is about to fill the window
    w messages in it that wait to be written   and those of `FIELDS`

What needs memory comes first: after any write a script is no longer refused when out of memory.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "APPLY",
    "DONE",
    "ENQUEUE",
    "FIELDS",
    "FILL",
    "FOLLOW",
    "INDEX",
    "PUSH",
    "READ",
    "RELEASE",
    "REWRITE",
    "TAKE",
    "TICKET_MS",
]

# How long a reader may take to fetch a window from the durable tier and fill it in.
TICKET_MS: Final = 30_000
# Fields of the hash, in the order of `State`, and `s`, the first message if it is a system message.
FIELDS: Final = ("v", "n", "st", "ag", "cx", "m", "x", "t", "k", "c", "b", "l", "y", "z", "s")

# Gives the fields and the newest items, and begins the window's TTL anew. Where there is no whole
# window (either key may be evicted by itself), nothing; then the caller's ticket is left.
# ARGV: how many items (-1: all), milliseconds to live (0: as it was), ticket ('' for none).
READ: Final = """
local held = redis.call('HGET', KEYS[1], 'h')
if held and (held == '0' or redis.call('LLEN', KEYS[2]) == tonumber(held)) then
  if ARGV[2] ~= '0' then
    redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
    redis.pcall('PEXPIRE', KEYS[2], ARGV[2])
  end
  local fields = redis.call('HMGET', KEYS[1], FIELDS)
  local items = {}
  local count = tonumber(ARGV[1])
  if count < 0 then items = redis.call('LRANGE', KEYS[2], 0, -1)
  elseif count > 0 then items = redis.call('LRANGE', KEYS[2], -count, -1) end
  return {held, fields, items}
end
if held then redis.pcall('DEL', KEYS[1], KEYS[2]) end
if ARGV[3] ~= '' then
  local left = redis.pcall('HSET', KEYS[1], 'f', ARGV[3])
  if type(left) == 'number' then redis.call('PEXPIRE', KEYS[1], TICKET_MS) end
end
return false
""".replace("FIELDS", ", ".join(f"'{field}'" for field in FIELDS)).replace(
    "TICKET_MS", str(TICKET_MS)
)

# Fills a window in, if nothing has changed since the ticket was left.
# ARGV: ticket, milliseconds to live, number of words that are fields and values, they, the items.
FILL: Final = """
if redis.call('HGET', KEYS[1], 'f') ~= ARGV[1] then return 0 end
local last = 3 + tonumber(ARGV[3])
local set = redis.pcall('HSET', KEYS[1], 'h', #ARGV - last, unpack(ARGV, 4, last))
if type(set) == 'table' then redis.call('DEL', KEYS[1], KEYS[2]) return 0 end
redis.call('HDEL', KEYS[1], 'f')
redis.call('DEL', KEYS[2])
if #ARGV > last then
  redis.call('RPUSH', KEYS[2], unpack(ARGV, last + 1))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

# Brings a window from one version to the next. One that is later already has the change in it; one
# that is earlier, or not whole, is dropped, with the ticket of whoever is about to fill it.
# ARGV: version before, version after, milliseconds to live, most items, number of words that are
# fields and values, they, the items to add.
APPLY: Final = """
local at = redis.call('HGET', KEYS[1], 'v')
if at and tonumber(at) >= tonumber(ARGV[2]) then return 2 end
local held = tonumber(redis.call('HGET', KEYS[1], 'h') or '-1')
if at ~= ARGV[1] or redis.call('LLEN', KEYS[2]) ~= held then
  if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then redis.call('DEL', KEYS[1], KEYS[2]) end
  return 0
end
local last = 5 + tonumber(ARGV[5])
if #ARGV > last then
  held = redis.pcall('RPUSH', KEYS[2], unpack(ARGV, last + 1))
  if type(held) == 'table' then redis.call('DEL', KEYS[1], KEYS[2]) return 0 end
  local most = tonumber(ARGV[4])
  if held > most then
    redis.call('LTRIM', KEYS[2], -most, -1)
    held = most
  end
end
local set = redis.pcall('HSET', KEYS[1], 'h', held, unpack(ARGV, 6, last))
if type(set) == 'table' then redis.call('DEL', KEYS[1], KEYS[2]) return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
"""

# Where Redis is all there is: appends to the log that the window is. KEYS[3] holds the ids; evicted,
# they are read from the items again, as `record` and `message` lay them out.
# ARGV: milliseconds to live, now in milliseconds, name of the counter, version that a new session
# begins behind (never one that it had before, so that no change of that one fits), then for each
# message: id, item, 1 if it is archived, 1 if it begins a turn, tokens, 1 if it is a system message.
PUSH: Final = """
local held = redis.call('HGET', KEYS[1], 'h')
local new = not held or redis.call('LLEN', KEYS[2]) ~= tonumber(held)
if new and redis.call('EXISTS', unpack(KEYS)) > 0 then redis.call('DEL', unpack(KEYS)) end
local next_ = new and 0 or tonumber(redis.call('HGET', KEYS[1], 'n'))
if not new and redis.call('EXISTS', KEYS[3]) == 0 then
  for _, item in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
    local message = 28 + struct.unpack('>I2', item, 26)
    local id = message + 12
    redis.call('SADD', KEYS[3], string.sub(item, id, id - 1 + struct.unpack('>I2', item, message + 2)))
  end
end
local added, shown, archived, turns, tokens, lead = 0, 0, 0, 0, 0, nil
for i = 5, #ARGV, 6 do
  if redis.call('SADD', KEYS[3], ARGV[i]) == 1 then
    local item = struct.pack('>i8', next_ + added) .. string.sub(ARGV[i + 1], 9)
    redis.call('RPUSH', KEYS[2], item)
    added = added + 1
    if ARGV[i + 2] == '1' then archived = archived + 1
    else
      if shown == 0 and ARGV[i + 5] == '1' then lead = item end
      shown = shown + 1
      turns = turns + tonumber(ARGV[i + 3])
      tokens = tokens + tonumber(ARGV[i + 4])
    end
  end
end
if new then
  redis.call('HSET', KEYS[1], 'cx', '', 'b', ARGV[2], 'z', 0, 'v', ARGV[4])
end
if (redis.call('HGET', KEYS[1], 'c') or '') == '' then redis.call('HSET', KEYS[1], 'c', ARGV[3]) end
if lead and redis.call('HINCRBY', KEYS[1], 'm', 0) == 0 then redis.call('HSET', KEYS[1], 's', lead) end
redis.call('HINCRBY', KEYS[1], 'v', 1)
redis.call('HINCRBY', KEYS[1], 'n', added)
redis.call('HINCRBY', KEYS[1], 'h', added)
redis.call('HINCRBY', KEYS[1], 'm', shown)
redis.call('HINCRBY', KEYS[1], 'x', archived)
redis.call('HINCRBY', KEYS[1], 't', turns)
redis.call('HINCRBY', KEYS[1], 'k', tokens)
redis.call('HSET', KEYS[1], 'st', 'active', 'l', ARGV[2])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
return added
"""

# Where Redis is all there is: puts everything in place of version ARGV[1] ('' for none there).
# ARGV: that, milliseconds to live, number of words that are fields and values, they, number of
# items, they, the ids.
REWRITE: Final = """
local at = redis.call('HGET', KEYS[1], 'v') or ''
if at ~= ARGV[1] then return 0 end
local last = 3 + tonumber(ARGV[3])
local items = tonumber(ARGV[last + 1])
local set = redis.pcall('HSET', KEYS[1], 'h', items, unpack(ARGV, 4, last))
if type(set) == 'table' then return set end
redis.call('DEL', KEYS[2], KEYS[3])
if last + 1 + items > last + 1 then
  for i = last + 2, last + 1 + items, 1000 do
    redis.call('RPUSH', KEYS[2], unpack(ARGV, i, math.min(i + 999, last + 1 + items)))
  end
  for i = last + 2 + items, #ARGV, 1000 do
    redis.call('SADD', KEYS[3], unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
return 1
"""

# Notes when a session that is in Redis alone was last active, and forgets those that have expired
# however long they lived: the longest of their times to live, below zero, is the score of ''.
# ARGV: session, when it was active, milliseconds to live.
INDEX: Final = """
local longest = -tonumber(redis.call('ZSCORE', KEYS[1], '') or '0')
if tonumber(ARGV[3]) > longest then
  longest = tonumber(ARGV[3])
  redis.call('ZADD', KEYS[1], '-' .. ARGV[3], '')
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, tonumber(ARGV[2]) - longest)
if redis.call('PTTL', KEYS[1]) < longest then redis.call('PEXPIRE', KEYS[1], longest) end
return 1
"""

# Accepts messages into the queue KEYS[3], and into the window if there is one. A message whose id
# is in the window is accepted once. Gives 0 if the queue is full.
# ARGV: milliseconds to live, now in milliseconds, most items (0: drop the window), longest queue,
# session, then for each message as for `PUSH`.
ENQUEUE: Final = """
if redis.replicate_commands then redis.replicate_commands() end
if redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[4]) then return 0 end
for from = 6, #ARGV, 6000 do
  local entry = {}
  for i = from, math.min(from + 5999, #ARGV), 6 do
    entry[#entry + 1] = 'm'
    entry[#entry + 1] = ARGV[i + 1]
  end
  redis.call('XADD', KEYS[3], '*', 's', ARGV[5], unpack(entry))
end
local held = tonumber(redis.call('HGET', KEYS[1], 'h') or '-1')
if ARGV[3] == '0' or held < 0 or redis.call('LLEN', KEYS[2]) ~= held then
  redis.call('DEL', KEYS[1], KEYS[2])
  return 1
end
if redis.call('HGET', KEYS[1], 'c') == '' then
  local length = string.byte(ARGV[7], 26) * 256 + string.byte(ARGV[7], 27)
  redis.call('HSET', KEYS[1], 'c', string.sub(ARGV[7], 28, 27 + length))
end
local known = {}
for _, item in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local value = 28 + string.byte(item, 26) * 256 + string.byte(item, 27)
  local length = string.byte(item, value + 2) * 256 + string.byte(item, value + 3)
  known[string.sub(item, value + 12, value + 11 + length)] = true
end
local shown, archived, turns, tokens = 0, 0, 0, 0
local first = redis.call('HINCRBY', KEYS[1], 'm', 0) == 0
for i = 6, #ARGV, 6 do
  if not known[ARGV[i]] then
    known[ARGV[i]] = true
    local number = redis.call('HINCRBY', KEYS[1], 'n', 1) - 1
    if ARGV[i + 2] == '1' then archived = archived + 1
    else
      local item = struct.pack('>i8', number) .. string.sub(ARGV[i + 1], 9)
      if first and shown == 0 and ARGV[i + 5] == '1' then
        redis.call('HSET', KEYS[1], 's', item)
      end
      redis.call('RPUSH', KEYS[2], item)
      shown = shown + 1
      turns = turns + tonumber(ARGV[i + 3])
      tokens = tokens + tonumber(ARGV[i + 4])
    end
  end
end
redis.call('HINCRBY', KEYS[1], 'w', (#ARGV - 5) / 6)
held = held + shown
if held > tonumber(ARGV[3]) then
  held = tonumber(ARGV[3])
  redis.call('LTRIM', KEYS[2], -held, -1)
end
redis.call('HINCRBY', KEYS[1], 'm', shown)
redis.call('HINCRBY', KEYS[1], 'x', archived)
redis.call('HINCRBY', KEYS[1], 't', turns)
redis.call('HINCRBY', KEYS[1], 'k', tokens)
redis.call('HSET', KEYS[1], 'h', held, 'st', 'active', 'l', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
"""

# What waited was written: a window that shows it is of the version after that, if it was of the one
# before. If not, it lacks a change that nobody told Redis of, and is dropped; as is one that shows
# less than was written: it was accepted into another epoch's. One that is later was filled since. A
# ticket stays: its reader waits until the log has all that was accepted before.
# ARGV: version before ('' for none), version after, how many messages were written.
FOLLOW: Final = """
local at = redis.call('HGET', KEYS[1], 'v')
if not at or at == ARGV[2] then return 2 end
if ARGV[1] ~= '' and tonumber(at) > tonumber(ARGV[2]) then return 2 end
if at == ARGV[1] and type(redis.pcall('HSET', KEYS[1], 'v', ARGV[2])) == 'number'
  and redis.call('HINCRBY', KEYS[1], 'w', -ARGV[3]) >= 0 then return 1 end
redis.call('DEL', KEYS[1], KEYS[2])
return 0
"""

# Gives the oldest entries of the queue KEYS[1] that nobody has acknowledged, to the holder of the
# lease KEYS[2]; nothing to anybody else. If there are none, the lease is over.
# ARGV: group, most entries, milliseconds to hold the lease, its token.
TAKE: Final = """
if redis.replicate_commands then redis.replicate_commands() end
if redis.call('GET', KEYS[2]) ~= ARGV[4] then return false end
for _, from in ipairs({'0', '>'}) do
  local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], 'drain', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], from)
  if found and #found[1][2] > 0 then
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    return found[1][2]
  end
end
redis.call('DEL', KEYS[2])
return {}
"""

# Forgets entries of the queue KEYS[1] that are written. ARGV: group, then their numbers.
DONE: Final = """
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
"""

# Frees the lease KEYS[1] if it is still ARGV[1]'s.
RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
