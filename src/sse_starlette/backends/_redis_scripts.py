"""What is asked of Redis for a log, and what it answers: scripts, names of keys, arguments.

Pure. What a change here must keep:

- A script may be refused any command (by an ACL, for want of memory, by a key of another type): what can
  be refused comes before the entry is added, and what comes after it has been tried before on the same
  kind of key, or is reported beside the positions.
- All keys of a channel share a hash tag, so that one script may use them on a cluster.
- What an older version of this package has written is read, and what is written here can be read and
  added to by it: the id and the two fields of an entry, `e`, `n` and `c` of the hash, what is published.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from redis.exceptions import InvalidResponse

from sse_starlette.errors import ChannelClosed

from .base import (
    DEFAULT_BYTES,
    DEFAULT_EVENTS,
    DEFAULT_EXPIRE,
    Beginning,
    Entry,
    Limits,
    NewEntry,
    Page,
    Position,
    last_stretch,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_PUBLISHED = 256 * 1024
"""
Bytes of a body that is still sent to those who listen; a larger one they read from the log.

Redis cuts off a listener for which 32 MiB are waiting, so a few of the largest would do.
"""
FORMAT = 1
"""Version of what is stored; one that is newer is refused."""

# The id of an entry in the stream is `offset-time`: the offset alone orders them, and the time, in ms,
# takes no room of its own. Trimming by age is exact when somebody reads, and now and then otherwise.
#
# The hash of a channel: `e` its epoch, `n` its head, `c` where it was closed; `t` the bytes that its
# bodies take, as they were when the stream had `l` entries; `h`, `b`, `s`, `x` the limits that somebody
# has given: entries, bytes, ms of an entry, ms of the channel.

_BEGIN = """
local stream, meta = KEYS[1], KEYS[2]
local tag, new_epoch = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local found = redis.call('HMGET', meta, 'e', 'n', 'c', 't', 'l', 'h', 'b', 's', 'x', 'v')
if found[10] and tonumber(found[10]) > FORMAT then
    return redis.error_reply('SSEFMT the channel was written in format ' .. found[10])
end
local epoch, known = found[1], found[1]
if epoch and (#epoch > 64 or not string.match(epoch, '^[%w_]+$')) then
    return redis.error_reply("SSEDATA its epoch can't be read")
end
if found[2] and not string.match(found[2], '^%d+$') then
    return redis.error_reply("SSEDATA its head can't be read")
end
if not epoch then
    -- A hash that was evicted leaves a stream behind, whose offsets mean nothing to the new epoch.
    epoch = new_epoch
    redis.call('DEL', stream)
    found = {}
end
local n = tonumber(found[2] or 0)

-- What nobody has given here is as somebody has given it elsewhere.
local news = {'e', epoch}
local limits = {}
for name, given, default in string.gmatch(ARGV[3], '(%a)(%d*)/(%d+)') do
    local kept = found[#limits + 6]
    if given ~= '' and given ~= kept then
        news[#news + 1] = name
        news[#news + 1] = given
        kept = given
    end
    limits[#limits + 1] = tonumber(kept or default)
end
local events, bytes, seconds, expire = limits[1], limits[2], limits[3], string.format('%.0f', limits[4])

local warning = ''
local function try(...)
    local answer = redis.pcall(...)
    if type(answer) == 'table' and answer.err then
        warning = answer.err
        return nil
    end
    return answer
end

local length, total = 0, 0
local function count()
    length = redis.call('XLEN', stream)
    local before = tonumber(found[5] or 0)
    if found[4] and before > 0 then
        -- Others have added or trimmed without counting.
        total = tonumber(found[4]) * length / before
    elseif length > 0 then
        total = 0
        for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
            total = total + #(entry[2][4] or '')
        end
    end
end

local function drop(number, oldest)
    for i = 1, number do total = total - #(oldest[i][2][4] or '') end
    if not try('XTRIM', stream, 'MAXLEN', length - number) then return false end
    length = length - number
    return true
end

local function drop_expired()
    local changed = false
    while seconds > 0 do
        local oldest = try('XRANGE', stream, '-', '+', 'COUNT', 16)
        if not oldest then break end
        local expired = 0
        for i, entry in ipairs(oldest) do
            local made = tonumber(string.match(entry[1], '%-(%d+)$'))
            -- A time that is still to come is another clock's. It goes with what comes after it.
            if made < now - seconds then
                expired = i
            elseif made <= now + 60000 then
                break
            end
        end
        if expired == 0 or not drop(expired, oldest) then break end
        changed = true
        if expired < 16 then break end
    end
    return changed
end
""".replace("> FORMAT", f"> {FORMAT}")


class Script:
    """A script, and the name under which a server that has run it knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


APPEND = Script(
    _BEGIN
    + """
local writers, topic, largest, writer = KEYS[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local last, places, mine = 0, {}, {}
if writer ~= '' then
    local noted = redis.call('HGET', writers, writer)
    if noted then
        last = tonumber(string.match(noted, '^%d+'))
        for turn, place in string.gmatch(noted, ' (%d+):(%S+)') do places[turn] = place end
    end
end
count()
-- These may be asked twice, so what is refused later has changed nothing.
redis.call('HSET', meta, unpack(news))
redis.call('PEXPIRE', meta, expire)

local last_before = last
local closed = known and found[3]
local results, added, marker = {}, 0, 3
for i = 7, #ARGV, 3 do
    -- It's remembered by its writer's turn, or for so many ms by a key of its own.
    local body, key = ARGV[i], ARGV[i + 1]
    local turn, remembered = string.match(ARGV[i + 2], '(%d*)/(%d*)')
    local result
    if turn == '' then
        marker = marker + 1
        result = redis.call('GET', KEYS[marker])
        if result == '' then result = nil end
        -- Set by another clock, or before this one was set back: its age isn't known.
        if result and (try('PTTL', KEYS[marker]) or 0) > 4000000 then
            try('PEXPIRE', KEYS[marker], remembered)
        end
    elseif tonumber(turn) <= last then
        result = places[turn] and string.gsub(places[turn], '/', ' ') or '?'
    end
    if not result and closed then result = '' end
    if not result then
        local offset = string.format('%.0f', n + 1)
        local position = epoch .. ' ' .. offset
        local answer
        if turn == '' then
            answer = redis.pcall('SET', KEYS[marker], position, 'PX', remembered)
        end
        if not (type(answer) == 'table' and answer.err) then
            answer = redis.pcall('XADD', stream, offset .. '-' .. string.format('%.0f', now),
                'k', key, 'b', body)
            if type(answer) == 'table' and answer.err and turn == '' then
                redis.pcall('SET', KEYS[marker], '', 'PX', 1)
            end
        end
        if type(answer) == 'table' and answer.err then
            if added == 0 then return answer end
            result = '!' .. answer.err
        else
            result, n, added = position, n + 1, added + 1
            length, total = length + 1, total + #body
            if body == '' then closed = offset end
            if #body > largest then
                try('PUBLISH', topic, '')
            else
                try('PUBLISH', topic, position .. ' ' .. #key .. ' ' .. key .. body)
            end
        end
    end
    if turn ~= '' and string.sub(result, 1, 1) ~= '!' then
        if tonumber(turn) > last then last = tonumber(turn) end
        if result ~= '' and result ~= '?' then
            mine[#mine + 1] = ' ' .. turn .. ':' .. string.gsub(result, ' ', '/')
        end
    end
    results[#results + 1] = result
end

if added > 0 then
    while length > events + 64 do
        local number = math.min(length - events, 500)
        local oldest = try('XRANGE', stream, '-', '+', 'COUNT', number)
        if not oldest or #oldest < number or not drop(number, oldest) then break end
    end
    while total > bytes and length > 1 do
        local number = math.ceil((total - bytes) * length / total)
        number = math.max(1, math.min(number, length - 1, 100))
        local oldest = try('XRANGE', stream, '-', '+', 'COUNT', number)
        if not oldest or #oldest < number or not drop(number, oldest) then break end
    end
    if n % 16 == 0 or added > 1 then drop_expired() end
    news = {'n', string.format('%.0f', n), 't', string.format('%.0f', total), 'l', length}
    if closed then
        news[#news + 1] = 'c'
        news[#news + 1] = closed
    end
    redis.call('HSET', meta, unpack(news))
    try('PEXPIRE', stream, expire)
    if writer ~= '' then
        if last_before == 0 and redis.call('HLEN', writers) >= 64 then
            -- Those that have gone.
            local all = redis.call('HGETALL', writers)
            for i = 1, #all, 2 do
                local at = tonumber(string.match(all[i + 1], '@(%d+)'))
                if math.abs(now - at) > 3600000 then try('HDEL', writers, all[i]) end
            end
        end
        redis.call('HSET', writers, writer,
            string.format('%.0f@%.0f', last, now) .. table.concat(mine))
        try('PEXPIRE', writers, expire)
    end
end
-- One string, which is read at once: a line for each thing.
local lines = {tag, warning, unpack(results)}
for i = 2, #lines do lines[i] = string.gsub(lines[i], '[\\r\\n]', ' ') end
return table.concat(lines, '\\n')
"""
)

READ = Script(
    _BEGIN
    + """
local first, last, most = ARGV[4], ARGV[5], tonumber(ARGV[6])
redis.call('HSET', meta, unpack(news))
if seconds > 0 then
    count()
    if drop_expired() then
        redis.call('HSET', meta, 't', string.format('%.0f', total), 'l', length)
    end
end
redis.call('PEXPIRE', stream, expire)
redis.call('PEXPIRE', meta, expire)
local entries = {}
if most > 0 then entries = redis.call('XRANGE', stream, first, last, 'COUNT', most) end
return {tag, epoch, string.format('%.0f', n), found[3] and 1 or 0, entries}
"""
)

SEEK = Script(
    _BEGIN
    + """
redis.call('HSET', meta, unpack(news))
redis.call('PEXPIRE', stream, expire)
redis.call('PEXPIRE', meta, expire)
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
if redis.call('HGET', KEYS[2], 'e') == ARGV[2] then redis.call('DEL', KEYS[1], KEYS[2]) end
return {ARGV[1]}
""")

# Everything that the others do, with keys that are gone afterwards.
CHECK = Script("""
local stream, meta, marker = KEYS[1], KEYS[2], KEYS[3]
local call = redis.call
call('TIME')
call('DEL', stream, meta, marker)
call('HSET', meta, 'n', 0)
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


# --- Names ----------------------------------------------------------------------------


def to_bytes(text: str) -> bytes:
    # Any text may be a name, half of a surrogate pair too.
    return text.encode("utf-8", "surrogatepass")


def to_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


class Names:
    """What the things of a channel are called in Redis."""

    def __init__(self, prefix: str, db: int) -> None:
        self._prefix = prefix
        # Who publishes in one database is heard in all of them.
        self._topic = f":p{db}"
        self.of = lru_cache(maxsize=1024)(self._of)
        """The stream, the hash, the writers and the topic of a channel."""

    def _of(self, channel: str) -> tuple[bytes, bytes, bytes, bytes]:
        return *self.keys(channel), self.writers(channel), self.topic(channel)

    def base(self, channel: str) -> str:
        # Only the brace of ours may close the hash tag.
        escaped = channel.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{{{self._prefix}:{escaped}}}"

    def keys(self, channel: str) -> tuple[bytes, bytes]:
        """The stream, and the hash that says where the channel is."""
        base = to_bytes(self.base(channel))
        return base + b":s", base + b":m"

    def writers(self, channel: str) -> bytes:
        """The hash that says what each writer has appended last."""
        return to_bytes(self.base(channel)) + b":w"

    def probe(self) -> tuple[bytes, bytes, bytes]:
        """Keys that are of no channel: a stream, a hash and a string."""
        base = to_bytes(self.base("")) + b":check:"
        return base + b"s", base + b"m", base + b"k"

    def marker(self, channel: str, key: str) -> bytes:
        """What remembers a key that something was appended with."""
        return to_bytes(f"{self.base(channel)}:k:{key}")

    def topic(self, channel: str) -> bytes:
        """Where one hears of what is appended."""
        return to_bytes(self.base(channel) + self._topic)


def milliseconds(seconds: float) -> int:
    # Redis counts in 64 bits; 30,000 years are as good as for ever.
    return max(1, round(min(seconds * 1000, 1e15)))


# --- What is asked --------------------------------------------------------------------


@lru_cache(maxsize=256)
def limits_asked(limits: Limits) -> bytes:
    """The limits as the scripts want them: the field, what somebody has given, and the default."""
    given = (
        limits.events,
        limits.bytes,
        None if limits.seconds is None else milliseconds(limits.seconds),
        None if limits.expire is None else milliseconds(limits.expire),
    )
    defaults = (DEFAULT_EVENTS, DEFAULT_BYTES, 0, milliseconds(DEFAULT_EXPIRE))
    asked = zip("hbsx", given, defaults, strict=True)
    return "".join(
        f"{name}{'' if n is None else n}/{default}" for name, n, default in asked
    ).encode()


def append_asked(
    names: Names, channel: str, entries: Sequence[NewEntry], limits: Limits, new_epoch: str
) -> tuple[list[bytes], list[Any]]:
    """The keys and the arguments of `APPEND`, without the tag. The entries are of one writer."""
    stream, meta, writers, topic = names.of(channel)
    keys = [stream, meta, writers]
    writer = next((entry.writer for entry in entries if entry.writer), "")
    arguments: list[Any] = [new_epoch, limits_asked(limits), topic, LARGEST_PUBLISHED, writer]
    for entry in entries:
        if entry.writer:
            remembered = b"%d/" % entry.turn
        else:
            keys.append(names.marker(channel, entry.key))
            remembered = b"/%d" % milliseconds(entry.key_seconds)
        arguments += [entry.body, to_bytes(entry.key), remembered]
    return keys, arguments


# --- What is answered -----------------------------------------------------------------


def strange(answer: object) -> InvalidResponse:
    """The error of an answer that isn't one to what was asked."""
    return InvalidResponse(f"an answer of another form than expected ({type(answer).__name__})")


def answer_to(tag: bytes, answer: Any, parts: int) -> list[Any]:
    """What a script has answered, without its tag; the answer to something else is refused."""
    if not isinstance(answer, list) or len(answer) != parts + 1 or answer[0] != tag:
        raise strange(answer)
    return answer[1:]


def appended_in(
    tag: bytes, answer: Any, channel: str, count: int
) -> tuple[list[Position | ChannelClosed | str], str]:
    """
    What `APPEND` has answered.

    Returns:
        What became of each entry: its position, that the channel was closed, or what was refused. And
        what was refused beside that, if anything.
    """
    if not isinstance(answer, bytes):
        raise strange(answer)
    told, *results = answer.split(b"\n")
    if told != tag or len(results) != count + 1:
        raise strange(answer)
    warning = results.pop(0).decode("utf-8", "replace")
    found: list[Position | ChannelClosed | str] = []
    for result in results:
        if result == b"":
            found.append(ChannelClosed(channel))
        elif result == b"?" or result[:1] == b"!":
            found.append(result[1:].decode("utf-8", "replace"))
        else:
            epoch, offset = result.split()
            found.append(Position(epoch.decode(), int(offset)))
    return found, warning


def beginning_in(parts: list[Any]) -> Beginning:
    """What `SEEK` has found."""
    epoch, offset, complete = parts
    return Beginning(epoch.decode(), int(offset), bool(complete))


def page_in(parts: list[Any]) -> Page:
    """What `READ` has found."""
    epoch, head, closed, found = parts
    entries = [
        Entry(int(id_.partition(b"-")[0]), to_text(key), body) for id_, (_, key, _, body) in found
    ]
    return Page(epoch.decode(), int(head), bool(closed), last_stretch(entries))
