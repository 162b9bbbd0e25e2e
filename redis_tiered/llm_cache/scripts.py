"""What the LLM cache has Redis do in one step. Redis 6.2 and Valkey 7.2 run all of it.

KEYS[1] is an entry, a hash of answer `r` and revision `u`; KEYS[2] its lease, in the same slot. An
alias is an entry that names another one, behind a header of 30 bytes in whose second byte the bit 2
is set. Where one server has all keys, a script follows it at once: it is given what the keys of
entries begin with.
"""

from __future__ import annotations

__all__ = [
    "ALIAS",
    "BURY",
    "DISCARD",
    "FOLLOW",
    "LEASE_MS",
    "LOOK_UP",
    "PROMOTE",
    "RELEASE",
    "RENEW",
    "SLIDE",
    "STORE",
    "TAG",
    "TOMBSTONE_MS",
]

# A lease is renewed every second; a leader that died is replaced after at most this long.
LEASE_MS = 3000
# How long a deleted entry stays marked, so that a reader who fetched it from the durable tier just
# before cannot put it back into Redis.
TOMBSTONE_MS = 60_000

_FOLLOWED = """
local function followed(answer, start)
  if answer and start and #answer > 30 and math.floor(string.byte(answer, 2) / 2) % 2 == 1 then
    return {answer, redis.call('HGET', start .. string.sub(answer, 31) .. '}', 'r')}
  end
  return answer
end
"""
# Returns the answer; or that of an alias and what it names; or 0: a plain miss; 1: a miss, and the
# lease is the caller's; 2: somebody else holds it; 3: a miss, but no lease can be written (out of
# memory, read-only). ARGV: own token ('' asks for no lease), its milliseconds, a dead leader's token,
# what the keys of entries begin with (left out: an alias is not followed).
LOOK_UP = f"""{_FOLLOWED}
local answer = redis.call('HGET', KEYS[1], 'r')
if answer then return followed(answer, ARGV[4]) end
if ARGV[1] == '' then return 0 end
local holder = redis.call('GET', KEYS[2])
if holder == '-' then return 0 end
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then return 2 end
local taken = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if taken.err then return 3 end
return 1
"""
# Returns an answer, or that of an alias and what it names. ARGV: what the keys of entries begin with,
# if an alias is to be followed.
FOLLOW = f"{_FOLLOWED} return followed(redis.call('HGET', KEYS[1], 'r'), ARGV[1])"
# Writes an entry and frees the lease, unless a later revision of it, or its deletion, came first.
# ARGV: revision ('' if the durable tier gave none: then who comes last wins, by no clock of ours),
# milliseconds to keep, then fields and values. What needs memory comes first: after any write,
# a DEL even, a script is no longer refused when out of memory, and would grow beyond `maxmemory`.
# If there is no room for the new answer, the old one is not left in its place.
STORE = """
local at = redis.call('HGET', KEYS[1], 'u')
local revision = ARGV[1]
if revision == '' then revision = at or '0'
elseif at and tonumber(at) > tonumber(revision) then
  redis.call('DEL', KEYS[2])
  return 0
end
local set = redis.pcall('HSET', KEYS[1], 'u', revision, unpack(ARGV, 3))
redis.call('DEL', KEYS[2])
if type(set) == 'table' then
  redis.call('DEL', KEYS[1])
  return set
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
# Warms an entry unless it was written or deleted meanwhile, and frees the lease.
PROMOTE = """
local set = 0
if redis.call('EXISTS', KEYS[1]) == 0 then
  set = redis.pcall('HSET', KEYS[1], 'u', ARGV[1], 'r', ARGV[3])
end
redis.call('DEL', KEYS[2])
if type(set) == 'table' then return set end
if set > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return set
"""
# Deletes an entry and leaves a mark of a later revision than it and than ARGV[1].
BURY = """
local at = redis.call('HGET', KEYS[1], 'u')
local mark = ARGV[1]
if at and tonumber(at) >= tonumber(mark) then mark = string.format('%.0f', tonumber(at) + 1) end
redis.call('DEL', KEYS[1], KEYS[2])
local marked = redis.pcall('HSET', KEYS[1], 'u', mark)
if type(marked) == 'number' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
# Has an entry's answer found under KEYS[1], too, if nothing is there, as long as it is; frees the lease.
# Returns the answer; or nothing, and the lease is kept, if it is not there or is an alias itself.
# ARGV: the entry's key and digest. What is 30 bytes long there is the header of `envelope`.
ALIAS = """
local answer = redis.call('HGET', ARGV[1], 'r')
if not answer or #answer < 30 or math.floor(string.byte(answer, 2) / 2) % 2 == 1 then return false end
local left = redis.call('PTTL', ARGV[1])
if left > 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  local first, rest = string.sub(answer, 1, 1) .. '\\2', string.sub(answer, 7, 30) .. ARGV[2]
  local sum, bytes = redis.sha1hex(first .. rest), ''
  for at = 1, 7, 2 do bytes = bytes .. string.char(tonumber(string.sub(sum, at, at + 1), 16)) end
  local alias = first .. bytes .. rest
  local set = redis.pcall('HSET', KEYS[1], 'u', 0, 'r', alias)
  if type(set) == 'table' then return set end
  redis.call('PEXPIRE', KEYS[1], left)
end
redis.call('DEL', KEYS[2])
return answer
"""
# Deletes an entry of which no use can be made, if it still is what ARGV[1] says.
DISCARD = """
if redis.call('HGET', KEYS[1], 'r') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
# Begins the TTL of an answer anew, if it is still the one that was read: ARGV[1] is its header.
SLIDE = """
local answer = redis.call('HGET', KEYS[1], 'r')
if not answer or string.sub(answer, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'r', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""
RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
# The set of a tag lives as long as its longest-lived member.
TAG = """
redis.call('SADD', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
