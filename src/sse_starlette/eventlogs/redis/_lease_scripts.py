"""The scripts of leases in Redis.

Pure. A lease is a few fields of the hash that says where its channel is, so it's kept and forgotten with it: `lt`
how often it was taken, `lh` by whom, `lr` how often it was renewed since, `la` when, in ms, `lv` how often visitors
have looked, `ln` what was left with it. They use no command that the scripts of the event log don't use.
"""

from __future__ import annotations

from ._scripts import APPEND, FORMAT, Script

PARTS = 7
"""What each of them answers, beside the tag: the fields of a `Lease`. A token of 0: there is none."""

_BEGIN = r"""
local stream, meta, tag = KEYS[1], KEYS[2], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('HMGET', meta, 'lt', 'lh', 'lr', 'lv', 'la', 'ln', 'c', 'v')
if found[8] and tonumber(found[8]) > FORMAT then
    return redis.error_reply('SSEFMT the channel was written in format ' .. found[8])
end
local function keep(lasts)
    redis.call('PEXPIRE', meta, lasts)
    redis.call('PEXPIRE', stream, lasts)
end
local function lease()
    if not found[1] then return {tag, '0', '', '0', '0', '0', '', ''} end
    local closed_by = ''
    if found[7] then
        local last = redis.call('XRANGE', stream, found[7], '+', 'COUNT', 1)[1]
        closed_by = last and last[2][2] or '?'
    end
    local age = string.format('%.0f', math.max(0, now - tonumber(found[5])))
    return {tag, found[1], found[2], found[3], found[4], age, found[6], closed_by}
end
""".replace("FORMAT", str(FORMAT))

TAKE = Script(
    _BEGIN
    + r"""
local holder, replaces, renewals, note, anew = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if (found[1] or '0') == replaces and (renewals == '' or found[3] == renewals) then
    found[1] = string.format('%d', tonumber(replaces) + 1)
    found[2], found[3], found[4], found[5], found[6] = holder, '0', '0', string.format('%.0f', now), note
    redis.call('HSET', meta, 'lt', found[1], 'lh', holder, 'lr', '0', 'lv', '0', 'la', found[5], 'ln', note)
    if anew == '1' then
        redis.call('DEL', stream)
        redis.call('HDEL', meta, 'e', 'n', 'c')
        found[7] = false
    end
    keep(ARGV[7])
end
return lease()
"""
)

RENEW_LEASE = Script(
    _BEGIN
    + r"""
if found[2] == ARGV[2] then
    found[3], found[5] = string.format('%d', found[3] + 1), string.format('%.0f', now)
    redis.call('HSET', meta, 'lr', found[3], 'la', found[5])
    keep(ARGV[3])
end
return lease()
"""
)

LOOK = Script(
    _BEGIN
    + r"""
if found[1] and ARGV[2] == '1' then
    found[4] = string.format('%d', found[4] + 1)
    redis.call('HSET', meta, 'lv', found[4])
end
return lease()
"""
)

LOST = "SSELEASE"

APPEND_LEASED = Script(
    f"""
if ARGV[6] ~= 'w:' .. (redis.call('HGET', KEYS[2], 'lh') or '') then
    return redis.error_reply('{LOST} somebody else has the lease')
end
"""
    + APPEND.text
)
