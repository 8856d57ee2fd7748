#include "state_store/redis/store_scripts.h"

#include <string>
#include <string_view>

#include "state_store/internal/cat.h"

namespace reprise::state_store::redis {

const Script kReadSession("read_session", R"lua(
local out = {}
for i, field in ipairs(ARGV) do
  if field == '@head' then
    local head = redis.call('HGET', KEYS[1], 'head')
    field = 'm:' .. (head or '')
  end
  out[i] = redis.call('HGET', KEYS[1], field)
end
return out
)lua");

// Adds to a tenant's counters, which outside clusters every script that seals or removes chunks is
// given as its last key. A chunk counts as its header says, whatever became of its bytes.
constexpr std::string_view kTally = R"lua(
local function sealed(header)
  return tonumber(header and string.match(header, '^1 %d+ %d+ (%d+) ') or 0)
end
local function tally(key, delta)
  if not key or delta == 0 then return end
  -- A counter that holds no number must not keep anybody from committing.
  redis.pcall('HINCRBY', key, 'bytes', string.format('%.0f', delta))
  redis.pcall('HINCRBY', key, 'moved', string.format('%.0f', math.abs(delta)))
end
)lua";

// Both scripts that change a session begin with this. apply(at, check, store) takes its arguments
// after ARGV[at]; check() may refuse before anything is written, store(now) writes first.
constexpr std::string_view kApply = R"lua(
local function apply(at, check, store)
local expected, new, mode = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
local oldest, longest, token = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), ARGV[at + 6]
local rev = redis.call('HGET', KEYS[1], 'rev') or ''
if rev == new and new ~= '' then return {'same'} end
if rev ~= expected then return {'conflict', rev} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if oldest > 0 and now - oldest > longest then return {'stale'} end
if token ~= '*' then
  local lease = redis.call('HMGET', KEYS[1], 'lease_token', 'lease_until', 'lease_owner')
  local held = lease[1] and tonumber(lease[2]) > now
  if token ~= '' and not (held and lease[1] == token) then return {'fenced'} end
  if token == '' and held then
    return {'leased', lease[3], string.format('%.0f', tonumber(lease[2]) - now)}
  end
end
local refused = check()
if refused then return refused end
local out = {'ok'}
local function keep(field, value)
  out[#out + 1] = field
  out[#out + 1] = value
end
if new == '' or mode == 'replace' then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'm:' then keep(all[i], all[i + 1]) end
  end
  redis.call('DEL', KEYS[1])
  if new == '' then return out end
end
local deletes = tonumber(ARGV[at + 7])
local first, last = at + 8, at + 7 + deletes
for i = first, last do
  if string.sub(ARGV[i], 1, 2) == 'm:' then
    local value = redis.call('HGET', KEYS[1], ARGV[i])
    if value then keep(ARGV[i], value) end
  end
end
-- A script that has begun to write is not stopped by maxmemory, so letting go of a snapshot works in
-- a full server, and a change that only adds fails before it has begun. This one deletes nothing.
if deletes > 0 then redis.call('HDEL', KEYS[1], '-') end
store(now)
-- Then everything new at once, and only then what is gone. A crash may tear this transaction in
-- Redis' log, and a second one has its beginning carried out with the next transaction that is
-- there: the whole change then, or fields that no record names, but never a deletion alone. There
-- is always a second command: a transaction's end also carries out what stands after a torn one.
local sets = {}
for i = last + 1, #ARGV do
  sets[#sets + 1] = ARGV[i]
  if #sets == 2000 and i < #ARGV then
    redis.call('HSET', KEYS[1], unpack(sets))
    sets = {}
  end
end
sets[#sets + 1] = 'rev'
sets[#sets + 1] = new
redis.call('HSET', KEYS[1], unpack(sets))
for i = first, last do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('HSET', KEYS[1], 'done', new)
return out
end
)lua";

const std::string kApplySource = Cat(kApply, R"lua(
return apply(0, function() end, function() end)
)lua");

// KEYS: the session, the hold, the chunks. ARGV: how many chunks, pin, user, session, what their
// headers must be, and what apply wants. In a torn log the chunks stand before what names them.
const std::string kCommitSource = Cat(kTally, kApply, R"lua(
local chunks, pin, user, session = tonumber(ARGV[1]), 'p:' .. ARGV[2], ARGV[3], ARGV[4]
local fresh = 0
local function check()
  for i = 1, chunks do
    local header, chunk = ARGV[4 + i], redis.call('HMGET', KEYS[2 + i], 'h', 'bad')
    local length = tonumber(string.match(header, '^1 %d+ %d+ (%d+) ') or -1)
    if chunk[2] or (chunk[1] and chunk[1] ~= header) or
       redis.call('HSTRLEN', KEYS[2 + i], 'd') ~= length then
      return {'chunks'}
    end
    if not chunk[1] then fresh = fresh + length end
  end
end
local function store(now)
  local stamp = string.format('%.0f', now) .. ' ' .. session
  redis.call('HSET', KEYS[2], user, stamp)
  for i = 1, chunks do redis.call('HSET', KEYS[2 + i], 'h', ARGV[4 + i], pin, stamp) end
  tally(KEYS[3 + chunks], fresh)
end
return apply(4 + chunks, check, store)
)lua");

const Script kApplySession("apply_session", kApplySource);
const Script kCommit("commit", kCommitSource);

// A token is above all that this session, or one of the same name before it, ever gave out.
const Script kLease("lease", R"lua(
if redis.call('HEXISTS', KEYS[1], 'rev') == 0 then return {'absent'} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lease = redis.call('HMGET', KEYS[1], 'lease_token', 'lease_until', 'lease_owner')
local held = lease[1] and tonumber(lease[2]) > now
if ARGV[1] == 'acquire' then
  if held and lease[3] ~= ARGV[2] then
    return {'leased', lease[3], string.format('%.0f', tonumber(lease[2]) - now)}
  end
  local token = string.format('%.0f', math.max(tonumber(lease[1] or 0) + 1, now))
  local till = string.format('%.0f', now + tonumber(ARGV[3]))
  redis.call('HSET', KEYS[1], 'lease_token', token, 'lease_until', till, 'lease_owner', ARGV[2])
  return {token, till}
end
if not lease[1] or lease[1] ~= ARGV[2] then return {'fenced'} end
if ARGV[1] == 'renew' then
  if not held then return {'fenced'} end
  local till = string.format('%.0f', now + tonumber(ARGV[3]))
  redis.call('HSET', KEYS[1], 'lease_until', till)
  return {lease[1], till}
end
redis.call('HSET', KEYS[1], 'lease_until', '0')
return {'released'}
)lua");

// A header ends its third number with the length of the stored bytes: see chunk_table.cc.
const Script kPinChunk("pin_chunk", R"lua(
local time = redis.call('TIME')
local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
local chunk = redis.call('HMGET', KEYS[1], 'h', 'bad')
local length = chunk[1] and tonumber(string.match(chunk[1], '^1 %d+ %d+ (%d+) ') or -1)
local whole = chunk[1] and not chunk[2] and redis.call('HSTRLEN', KEYS[1], 'd') == length
redis.call('HSET', KEYS[1], 'p:' .. ARGV[1], stamp .. ' ' .. ARGV[2])
return {whole and 1 or 0, chunk[1] or '', stamp}
)lua");

const std::string kSealChunkSource = Cat(kTally, R"lua(
local time = redis.call('TIME')
local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
local chunk = redis.call('HMGET', KEYS[1], 'h', 'bad')
local header = chunk[1] or ARGV[3]
local length = tonumber(string.match(header, '^1 %d+ %d+ (%d+) ') or -1)
local have = redis.call('HSTRLEN', KEYS[1], 'd')
if chunk[2] or have ~= length then return {0, chunk[1] or ''} end
redis.call('HSET', KEYS[1], 'h', header, 'p:' .. ARGV[1], stamp .. ' ' .. ARGV[2])
local added = chunk[1] and 0 or have
tally(KEYS[2], added)
return {1, header, stamp, added, added}
)lua");

const std::string kPutChunkSource = Cat(kTally, R"lua(
local time = redis.call('TIME')
local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
local chunk = redis.call('HMGET', KEYS[1], 'h', 'bad')
local old, pin, owner = chunk[1], 'p:' .. ARGV[1], stamp .. ' ' .. ARGV[2]
local before = redis.call('HSTRLEN', KEYS[1], 'd')
if old and old ~= ARGV[4] then
  local length = tonumber(string.match(old, '^1 %d+ %d+ (%d+) ') or -1)
  if not chunk[2] and before == length then
    redis.call('HSET', KEYS[1], pin, owner)
    return {1, old, stamp, 0, 0}
  end
  if old ~= ARGV[3] then return {0, old} end
end
redis.call('HSET', KEYS[1], 'h', ARGV[3], 'd', ARGV[5], pin, owner)
redis.call('HDEL', KEYS[1], 'bad')
local added = sealed(ARGV[3]) - sealed(old)
tally(KEYS[2], added)
return {1, ARGV[3], stamp, #ARGV[5] - before, added}
)lua");

const Script kSealChunk("seal_chunk", kSealChunkSource);
const Script kPutChunk("put_chunk", kPutChunkSource);

constexpr std::string_view kUnpin = R"lua(
local function unpin(pin, counters)
redis.call('HDEL', KEYS[1], pin)
local others = redis.call('HLEN', KEYS[1])
for _, field in ipairs({'h', 'd', 'bad'}) do
  others = others - redis.call('HEXISTS', KEYS[1], field)
end
if others > 0 then return {0, 0} end
local freed = redis.call('HSTRLEN', KEYS[1], 'd')
local counted = sealed(redis.call('HGET', KEYS[1], 'h'))
redis.call('DEL', KEYS[1])
tally(counters, -counted)
return {freed, -counted}
end
)lua";

const std::string kUnpinChunkSource = Cat(kTally, kUnpin, R"lua(
local pin = 'p:' .. ARGV[1]
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], pin) ~= ARGV[2] then return {0, 0} end
return unpin(pin, KEYS[2])
)lua");

const std::string kUnpinLeftSource = Cat(kTally, kUnpin, R"lua(
if redis.call('HGET', KEYS[2], 'rev') ~= ARGV[2] or redis.call('EXISTS', KEYS[3]) == 1 then
  return {-1}
end
return unpin('p:' .. ARGV[1], KEYS[4])
)lua");

const Script kUnpinChunk("unpin_chunk", kUnpinChunkSource);
const Script kUnpinLeft("unpin_left", kUnpinLeftSource);

const Script kCondemnChunk("condemn_chunk", R"lua(
if redis.call('HGET', KEYS[1], 'h') == ARGV[1] then redis.call('HSET', KEYS[1], 'bad', '1') end
return {}
)lua");

const Script kInspectChunk("inspect_chunk", R"lua(
local time = redis.call('TIME')
local out = {redis.call('HGET', KEYS[1], 'h') or '', redis.call('HSTRLEN', KEYS[1], 'd'),
             string.format('%.0f', time[1] * 1000000 + time[2]), 1}
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then
  out[4] = 0
  return out
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 2) == 'p:' then
    out[#out + 1] = string.sub(field, 3)
    out[#out + 1] = redis.call('HGET', KEYS[1], field)
  end
end
return out
)lua");

const Script kHold("hold", R"lua(
local time = redis.call('TIME')
local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
if ARGV[1] == 'drop' then
  if ARGV[3] == '' or redis.call('HGET', KEYS[1], ARGV[2]) == ARGV[3] then
    redis.call('HDEL', KEYS[1], ARGV[2])
  end
  return {1 - redis.call('EXISTS', KEYS[1]), stamp}
end
if ARGV[1] == 'share' and redis.call('EXISTS', KEYS[1]) == 0 then return {0, stamp} end
redis.call('HSET', KEYS[1], ARGV[2], stamp .. ' ' .. ARGV[3])
return {1, stamp}
)lua");

const Script kLeaveHold("leave_hold", R"lua(
if redis.call('HGET', KEYS[1], 'rev') ~= ARGV[1] then return {-1} end
redis.call('HDEL', KEYS[2], ARGV[2])
return {1 - redis.call('EXISTS', KEYS[2])}
)lua");

const Script kDropFields("drop_fields", R"lua(
if redis.call('HGET', KEYS[1], 'rev') ~= ARGV[1] then return {0} end
local dropped = 0
for i = 2, #ARGV do dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i]) end
return {dropped}
)lua");

const Script kCompareAndSetField("compare_and_set_field", R"lua(
local value = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if value == ARGV[3] then return {1, value} end
if value ~= ARGV[2] then return {0, value} end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return {1, ARGV[3]}
)lua");

const std::string kCountSource = Cat(kTally, R"lua(
local moved = redis.call('HGET', KEYS[1], 'moved') or '0'
if ARGV[2] ~= '' and moved ~= ARGV[2] then return {0} end
tally(KEYS[1], tonumber(ARGV[1]))
return {1}
)lua");
const Script kCount("count", kCountSource);

const Script kReserveBytes("reserve_bytes", R"lua(
local used = tonumber(redis.call('GET', KEYS[1]) or 0) + tonumber(ARGV[1])
if tonumber(ARGV[1]) > 0 and used > tonumber(ARGV[2]) then return {0, used} end
redis.call('SET', KEYS[1], string.format('%.0f', math.max(used, 0)))
return {1}
)lua");

}  // namespace reprise::state_store::redis
