"""What maps have Redis do in one step. Redis 6.2 and Valkey 7.2 run all of it."""

from __future__ import annotations

__all__ = ["DISCARD", "FORGET", "MARK", "PUT", "REMOVE", "STORE", "TOMBSTONE_MS", "WARM"]

# How long Redis at least knows of a change, so that a reader who fetched what was before from the
# durable tier cannot put it back into Redis.
TOMBSTONE_MS = 60_000

# Where there is a durable tier. Writes values, each unless a later revision of it came first. ARGV:
# revision, milliseconds to keep a value, a mark that the durable tier is to be asked, milliseconds to
# keep a mark, then a value or the mark of a deletion per key. Where there is no room for a new value,
# the mark is left in place of the old one: after a DEL, which needs no memory, a script is refused none.
STORE = """
local refused
for i = 1, #KEYS do
  local at = redis.call('GETRANGE', KEYS[i], 0, 7)
  if #at < 8 or struct.unpack('>I8', at) <= tonumber(ARGV[1]) then
    local keep = #ARGV[4 + i] == 16 and ARGV[4] or ARGV[2]
    local set = refused or redis.pcall('SET', KEYS[i], ARGV[4 + i], 'PX', keep)
    if set.err then
      redis.call('DEL', KEYS[i])
      redis.pcall('SET', KEYS[i], ARGV[3], 'PX', ARGV[4])
      refused = set
    end
  end
end
return refused or 1
"""
# Likewise leaves the mark alone: also where there is no room for it.
MARK = """
for i = 1, #KEYS do
  local at = redis.call('GETRANGE', KEYS[i], 0, 7)
  if #at < 8 or struct.unpack('>I8', at) <= tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[i])
    redis.pcall('SET', KEYS[i], ARGV[2], 'PX', ARGV[3])
  end
end
return 1
"""
# Writes what the durable tier had, unless a value of that revision or anything of a later one is there.
# ARGV: milliseconds to keep and value per key.
WARM = """
for i = 1, #KEYS do
  local data, at = ARGV[2 * i], redis.call('GETRANGE', KEYS[i], 0, 7)
  local late = #at == 8 and struct.unpack('>I8', at) - struct.unpack('>I8', data) or -1
  if late < 0 or late == 0 and redis.call('STRLEN', KEYS[i]) == 16 then
    local set = redis.pcall('SET', KEYS[i], data, 'PX', ARGV[2 * i - 1])
    if set.err then return set end
  end
end
return 1
"""
# Where Redis is all there is: KEYS[1] is the index of names, of the same slot. ARGV: milliseconds to
# keep (0: for good), then name and value per key.
PUT = """
for i = 2, #KEYS do
  local name, value = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local set
  if ARGV[1] == '0' then set = redis.pcall('SET', KEYS[i], value)
  else set = redis.pcall('SET', KEYS[i], value, 'PX', ARGV[1]) end
  if set.err then return set end
  redis.call('ZADD', KEYS[1], 0, name)
end
return 1
"""
# Likewise; ARGV: a name per key. Returns how many values there were.
REMOVE = """
local count = 0
for i = 2, #KEYS do
  count = count + redis.call('DEL', KEYS[i])
  redis.call('ZREM', KEYS[1], ARGV[i - 1])
end
return count
"""
# Takes a name out of the index if its value is gone: it expired.
FORGET = """
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
"""
# Deletes a value of which no use can be made, if it still is what ARGV[1] says.
DISCARD = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
