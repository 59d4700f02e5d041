"""The scripts of a log in Redis.

Pure. What a change here must keep:

- A script may be refused any command (by an ACL, for want of memory, by a key of another type): what can
  be refused comes before the entry is added, and what comes after it has been tried before on the same
  kind of key, or is reported beside the positions.
- A server that is full refuses a script only its first command that writes, and only if that one may take
  room: HSET comes before DEL and PEXPIRE, which take none.
- All keys of a channel share a hash tag, so that one script may use them on a cluster.
- What an older version of this package has written is read, and what is written here can be read and
  added to by it: the id and the two fields of an entry, `e`, `n` and `c` of the hash, what is published.
"""

from __future__ import annotations

import hashlib

from ..base import DEFAULT_BYTES, DEFAULT_EVENTS, DEFAULT_EXPIRE

FORMAT = 1
"""Version of what is stored; one that is newer is refused."""


def milliseconds(seconds: float) -> int:
    """A time as Redis counts it, in 64 bits; 30,000 years are as good as for ever."""
    return max(1, round(min(seconds * 1000, 1e15)))


# The id of an entry in the stream is `offset-time`: the offset alone orders them, and the time, in ms,
# takes no room of its own. Trimming by age is exact when somebody reads, and now and then otherwise.
#
# The hash of a channel: `e` its epoch, `n` its head, `c` where it was closed; `d`, in one word: how many
# bytes its bodies take, how many entries the stream had then, the second in which the keys were last given
# their time to live, and the limits that somebody has given: entries, bytes, ms of an entry, ms of the
# channel. With a `~` before it, the bytes may be fewer: they are counted only where they come near the
# limit. `w:…` says what a writer has appended last: its turn, when, and where.
#
# What takes time in Redis is each command, each field that is asked for, and each number that is made of a
# text or a text of a number.

_BEGIN = r"""
local stream, meta = KEYS[1], KEYS[2]
local tag, new_epoch = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local second = time[1]
local function now() return second * 1000 + math.floor(time[2] / 1000) end

local found = redis.call('HMGET', meta, 'e', 'n', 'c', 'd', 'v'FIELDS)
if found[5] and tonumber(found[5]) > FORMAT then
    return redis.error_reply('SSEFMT the channel was written in format ' .. found[5])
end
local epoch, known = found[1], found[1]
if epoch and (#epoch > 64 or not string.match(epoch, '^[%w_]+$')) then
    return redis.error_reply("SSEDATA its epoch can't be read")
end
if found[2] and not string.match(found[2], '^%d+$') then
    return redis.error_reply("SSEDATA its head can't be read")
end
local n = tonumber(found[2] or 0)
if not known then
    -- A hash that was evicted leaves a stream behind, whose offsets mean nothing to the new epoch.
    redis.call('HSET', meta, 'd', found[4] or '')
    redis.call('DEL', stream)
    epoch, n, found[3] = new_epoch, 0, false
end

local bound, counted, count_was, told_at, h, b, s, x =
    string.match(found[4] or '', '^(~?)(%d+) (%d+) (%d+) (%d*) (%d*) (%d*) (%d*)$')
if not counted then
    bound, told_at, h, b, s, x = '', '0', '', '', '', ''
    if known then
        -- Where a preview of this version had them.
        local kept = redis.call('HMGET', meta, 'h', 'b', 's', 'x')
        h, b, s, x = kept[1] or '', kept[2] or '', kept[3] or '', kept[4] or ''
    end
end
-- What nobody has given here is as somebody has given it elsewhere.
local h_now, b_now, s_now, x_now = string.match(ARGV[3], '(%d*) (%d*) (%d*) (%d*)')
-- All keys live for a second longer than they have to, so that it's said once a second and not each time.
local due = not known or told_at ~= second or (x_now ~= '' and x_now ~= x)
if h_now ~= '' then h = h_now end
if b_now ~= '' then b = b_now end
if s_now ~= '' then s = s_now end
if x_now ~= '' then x = x_now end
local events = tonumber(h == '' and EVENTS or h)
local bytes = tonumber(b == '' and BYTES or b)
local seconds = tonumber(s == '' and 0 or s)
local function lasts() return string.format('%.0f', (x == '' and EXPIRE or x) + 1000) end

local warning = ''
local function try(...)
    local answer = redis.pcall(...)
    if type(answer) == 'table' and answer.err then
        warning = string.gsub(answer.err, '[\r\n]', ' ')
        return nil
    end
    return answer
end

local length, total = 0, 0
local function measure()
    local entries = try('XRANGE', stream, '-', '+')
    if not entries then return false end
    bound, total = '', 0
    for _, entry in ipairs(entries) do total = total + #(entry[2][4] or '') end
    return true
end

local function count()
    length = redis.call('XLEN', stream)
    local before = tonumber(count_was)
    if before == length then
        total = tonumber(counted)
    elseif before and before > 0 then
        -- Others have added or trimmed without counting.
        bound, total = '~', math.floor(counted * length / before)
    elseif length > 0 then
        measure()
    end
end

local function state()
    return string.format('%s%d %d %s %s %s %s %s', bound, total, length, told_at, h, b, s, x)
end
"""

for _name, _value in (
    ("FORMAT", FORMAT),
    ("EVENTS", DEFAULT_EVENTS),
    ("BYTES", DEFAULT_BYTES),
    ("EXPIRE", milliseconds(DEFAULT_EXPIRE)),
):
    _BEGIN = _BEGIN.replace(_name, str(_value))

_BEGIN_TO_APPEND = _BEGIN.replace("FIELDS", ", ARGV[6]")

# Where it's needed, for what isn't made takes no time.
_TO_DROP = r"""
local function drop(number, oldest)
    for i = 1, number do total = total - #(oldest[i][2][4] or '') end
    if not try('XTRIM', stream, 'MAXLEN', length - number) then return false end
    length = length - number
    return true
end

local function drop_expired()
    local earliest, latest = now() - seconds, now() + 60000
    while seconds > 0 do
        local oldest = try('XRANGE', stream, '-', '+', 'COUNT', 16)
        if not oldest then break end
        local expired = 0
        for i, entry in ipairs(oldest) do
            local made = tonumber(string.match(entry[1], '%-(%d+)$'))
            -- A time that is still to come is another clock's. It goes with what comes after it.
            if made < earliest then
                expired = i
            elseif made <= latest then
                break
            end
        end
        if expired == 0 or not drop(expired, oldest) or expired < 16 then break end
    end
end
"""

_BEGIN_TO_LOOK = (
    _BEGIN.replace("FIELDS", "")
    + _TO_DROP
    + r"""
local function looked()
    if not known then redis.call('HSET', meta, 'e', epoch) end
    count()
    drop_expired()
    local state = state()
    if state ~= found[4] then redis.call('HSET', meta, 'd', state) end
    redis.call('PEXPIRE', stream, lasts())
    redis.call('PEXPIRE', meta, lasts())
end
"""
)


class Script:
    """A script, and the name under which a server that has run it knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


APPEND = Script(
    _BEGIN_TO_APPEND
    + r"""
local topic, largest, writer, noted = ARGV[4], tonumber(ARGV[5]), ARGV[6], found[6]
local last = noted and tonumber(string.match(noted, '^%d+')) or 0
-- What has a key of its own is remembered by it, for so many ms; the rest by its writer's turn.
local positions = {}
for i = 3, #KEYS do
    local position = redis.call('GET', KEYS[i])
    if position and position ~= '' then positions[KEYS[i]] = position end
end
count()

-- What is to become of each.
local closed, closes = known and found[3], false
local results, fresh, offsets, own_keys = {}, {}, {}, {}
local offset, newest, notes, marker, number = found[2] or '0', last, '', 2, 0
for i = 7, #ARGV, 3 do
    number = number + 1
    local turn, result = tonumber(ARGV[i + 2]), nil
    if not turn then
        marker = marker + 1
        own_keys[number] = KEYS[marker]
        result = positions[KEYS[marker]]
        -- Set by another clock, or before this one was set back: its age isn't known.
        if result and (try('PTTL', KEYS[marker]) or 0) > 4000000 then
            try('PEXPIRE', KEYS[marker], string.sub(ARGV[i + 2], 2))
        end
    elseif turn <= last then
        local place = string.match(noted, ' ' .. ARGV[i + 2] .. ':(%S+)')
        result = place and string.gsub(place, '/', ' ') or '?'
        if place then notes = notes .. ' ' .. ARGV[i + 2] .. ':' .. place end
    else
        newest = turn
    end
    if not result and closed then result = '' end
    if not result then
        n = n + 1
        offset = string.format('%d', n)
        result = epoch .. ' ' .. offset
        length, total = length + 1, total + #ARGV[i]
        fresh[#fresh + 1], offsets[number] = number, offset
        if turn then
            notes = notes .. ' ' .. ARGV[i + 2] .. ':' .. epoch .. '/' .. offset
        else
            positions[KEYS[marker]] = result
        end
        if ARGV[i] == '' then closed, closes = offset, true end
    end
    results[number] = result
end

-- It's said before it's done, in one word: what is refused here has changed nothing, and may be asked
-- again. From then on nothing may raise, and what comes otherwise is said once more.
local function say(closes)
    local news = {'n', offset, 'd', state()}
    if closes then
        news[#news + 1] = 'c'
        news[#news + 1] = closed
    end
    if writer ~= '' then
        news[#news + 1] = writer
        news[#news + 1] = string.format('%d@%s', newest, second) .. notes
    end
    redis.call('HSET', meta, unpack(news))
end
if due then
    redis.call('HSET', meta, 'e', epoch)
    redis.call('PEXPIRE', meta, lasts())
    told_at = second
end
if #fresh > 0 or due then say(false) end
local said_total, said_length = total, length

local refused
local made = '-' .. second .. string.sub('00000' .. time[2], -6, -4)
for done, number in ipairs(fresh) do
    local i, position, own_key = 4 + 3 * number, results[number], own_keys[number]
    local body, key, answer = ARGV[i], ARGV[i + 1], nil
    if own_key then
        answer = redis.pcall('SET', own_key, position, 'PX', string.sub(ARGV[i + 2], 2))
    end
    if not (type(answer) == 'table' and answer.err) then
        answer = redis.pcall('XADD', stream, offsets[number] .. made, 'k', key, 'b', body)
        if type(answer) == 'table' and answer.err and own_key then
            redis.pcall('SET', own_key, '', 'PX', 1)
        end
    end
    if type(answer) == 'table' and answer.err then
        -- Nothing that comes after it can be added either.
        refused, closes = answer, false
        for rest = done, #fresh do
            local i = 4 + 3 * fresh[rest]
            n, length, total = n - 1, length - 1, total - #ARGV[i]
            results[fresh[rest]] = ''
            if tonumber(ARGV[i + 2]) then
                notes = string.gsub(notes, ' ' .. ARGV[i + 2] .. ':%S+', '')
            end
        end
        offset = string.format('%d', n)
        newest = last
        for other = 1, #results do
            local turn = tonumber(ARGV[6 + 3 * other])
            if other >= number and results[other] == '' then
                results[other] = '!' .. string.gsub(answer.err, '[\r\n]', ' ')
            elseif turn then
                newest = math.max(newest, turn)
            end
        end
        break
    end
    if #body > largest then
        try('PUBLISH', topic, '')
    else
        try('PUBLISH', topic, position .. ' ' .. #key .. ' ' .. key .. body)
    end
end
if refused and string.sub(results[fresh[1]], 1, 1) == '!' then
    say(false)
    return refused
end

if #fresh > 0 then
    if length > events + 64 or total > bytes or (seconds > 0 and (n % 16 == 0 or #fresh > 1)) then
"""
    + _TO_DROP
    + r"""
        while length > events + 64 do
            local number = math.min(length - events, 500)
            if total * (bound == '' and 4 or 2) <= bytes then
                -- Far from the limit, it needn't be known how many bytes go.
                if not try('XTRIM', stream, 'MAXLEN', length - number) then break end
                bound, length = '~', length - number
            elseif bound ~= '' then
                if not measure() then break end
            else
                local oldest = try('XRANGE', stream, '-', '+', 'COUNT', number)
                if not oldest or #oldest < number or not drop(number, oldest) then break end
            end
        end
        if total > bytes and bound ~= '' then measure() end
        while total > bytes and length > 1 do
            local number = math.ceil((total - bytes) * length / total)
            number = math.max(1, math.min(number, length - 1, 100))
            local oldest = try('XRANGE', stream, '-', '+', 'COUNT', number)
            if not oldest or #oldest < number or not drop(number, oldest) then break end
        end
        drop_expired()
    end
    if due or said_length == #fresh then try('PEXPIRE', stream, lasts()) end
    if writer ~= '' and not noted and (try('HLEN', meta) or 0) > 64 then
        -- Those that have gone.
        local all = try('HGETALL', meta) or {}
        for i = 1, #all, 2 do
            local at = tonumber(string.match(all[i + 1], '^%d+@(%d+)'))
            if at and math.abs(second - at) > 3600 then try('HDEL', meta, all[i]) end
        end
    end
    if refused or closes or total ~= said_total or length ~= said_length then say(closes) end
end
-- One string, which is read at once: a line for each thing.
return table.concat({tag, warning, unpack(results)}, '\n')
"""
)

HEAD = ("e", "n", "d", "x")
"""The fields that say where a channel is, and how long it's kept."""

READ = Script(
    _BEGIN_TO_LOOK
    + r"""
looked()
local first, last, limit = ARGV[4], ARGV[5], tonumber(ARGV[6])
local entries = {}
if limit > 0 then entries = redis.call('XRANGE', stream, first, last, 'COUNT', limit) end
return {tag, epoch, string.format('%.0f', n), found[3] and 1 or 0, entries}
"""
)

SEEK = Script(
    _BEGIN_TO_LOOK
    + """
looked()
local now = now()
local age = tonumber(ARGV[4])
local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
-- What isn't kept any more at all has gone for its age, or somebody else has taken it.
local complete = n == 0 or (seconds > 0 and age <= seconds)
-- From `high` on they are young enough, and before `low` they are not.
local low, high = n + 1, n + 1
if oldest then
    local first = tonumber(string.match(oldest[1], '^%d+'))
    low = first
    while low < high do
        local middle = math.floor((low + high) / 2)
        local entry = redis.call('XRANGE', stream, string.format('%.0f', middle), '+', 'COUNT', 1)[1]
        local offset, made = string.match(entry and entry[1] or '', '^(%d+)-(%d+)$')
        if not offset or now - tonumber(made) <= age then
            high = middle
        else
            low = tonumber(offset) + 1
        end
    end
    complete = low > first or first == 1
end
return {tag, epoch, string.format('%.0f', low - 1), complete and 1 or 0}
"""
)

# What was appended keeps its key: whoever repeats it is given the position that it had.
RENEW = Script("""
if redis.call('HGET', KEYS[2], 'e') == ARGV[2] then
    redis.call('DEL', KEYS[1])
    redis.call('HDEL', KEYS[2], 'e', 'n', 'c')
end
return {ARGV[1]}
""")

# Everything that the others do, with keys that are gone afterwards.
CHECK = Script("""
local stream, meta, marker = KEYS[1], KEYS[2], KEYS[3]
local call = redis.call
call('TIME')
-- First of all that writes: a server without memory refuses it only then.
call('HSET', meta, 'n', 0)
call('DEL', stream, marker)
call('PEXPIRE', meta, 1000)
call('HMGET', meta, 'n')
call('HGET', meta, 'n')
call('HLEN', meta)
call('HGETALL', meta)
call('HDEL', meta, 'n')
call('XADD', stream, '1-1', 'k', '')
call('PEXPIRE', stream, 1000)
call('XLEN', stream)
call('XRANGE', stream, '-', '+', 'COUNT', 1)
call('XTRIM', stream, 'MAXLEN', 0)
call('GET', marker)
call('SET', marker, '', 'PX', 1000)
call('PTTL', marker)
call('DEL', stream, meta, marker)
return {ARGV[1]}
""")
