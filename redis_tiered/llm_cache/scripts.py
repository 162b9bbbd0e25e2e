"""What the LLM cache has Redis do in one step. Redis 6.2 and Valkey 7.2 run all of it.

KEYS[1] is an entry, a hash of answer `r`, revision `u` and what the semantic cache will need;
KEYS[2] its lease, in the same slot.
"""

from __future__ import annotations

__all__ = [
    "BURY",
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

# Returns the answer; or 0: a plain miss; 1: a miss, and the lease is the caller's; 2: somebody
# else holds it; 3: a miss, but no lease can be written (out of memory, read-only). ARGV: own token
# ('' asks for no lease), its milliseconds, a dead leader's token.
LOOK_UP = """
local answer = redis.call('HGET', KEYS[1], 'r')
if answer then return answer end
if ARGV[1] == '' then return 0 end
local holder = redis.call('GET', KEYS[2])
if holder == '-' then return 0 end
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then return 2 end
local taken = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if taken.err then return 3 end
return 1
"""
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
