-- tensorwire for Wireshark and tshark: preface, frames, extension, handshake, READY and tensor metadata (SPEC 2 to 19).
--
-- Here lives what a frame says and what is wrong with it, as fields to filter by; README.md beside this file says how to
-- install and use it. Not here: bodies, which are tensors, and the rules of streams over several frames, which are the
-- connection's. Everything on the wire is hostile: each read is bounds-checked before it is made. A field or rule that
-- changes here changes in clients/cli/decoding too, and tests/wireshark holds the two together.
-- Lua 5.2 (Wireshark 3 and 4.0 to 4.2) and 5.4 (4.4 on).

local tensorwire = Proto("tensorwire", "Tensorwire")

local PREFACE = "\x89TWP\r\n\x1a\n"
local HEADER_SIZE, PREFIX, TAG = 32, 4, 16
local INLINE_BODY, MAX_CHUNK, MAX_METADATA, MAX_EXTENSION = 65536, 1048576, 65536, 1024
local HELLO, WELCOME, AUTH, READY, OPEN, DATA, END, CANCEL = 1, 2, 3, 4, 5, 6, 7, 8
local PING, PONG, GOAWAY, CLOSE = 11, 12, 13, 15
local END_STREAM, MORE = 0x01, 0x02

---- Tables of SPEC 3.3, 4.4, 6.1, 9.3, 18.3, 19.1, 19.2 ----

local TYPES = {
  [1] = "HELLO", [2] = "WELCOME", [3] = "AUTH", [4] = "READY", [5] = "OPEN", [6] = "DATA", [7] = "END", [8] = "CANCEL",
  [9] = "CREDIT", [10] = "RATE", [11] = "PING", [12] = "PONG", [13] = "GOAWAY", [14] = "RESUME", [15] = "CLOSE",
  [16] = "KEY_UPDATE",
}
local STATUSES = {
  [0] = "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
  "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}
local CODES = {
  [0] = "NO_ERROR", "PROTOCOL", "FRAME", "TOO_LARGE", "STREAM", "EXTENSION", "HANDSHAKE", "VERSION", "FEATURE", "MAC",
  "AUTHENTICATION", "TIMEOUT", "CALM", "SHUTDOWN", "INTERNAL", "NOT_TENSORWIRE",
}
local FLAGS = {
  { 0x01, "END_STREAM" }, { 0x02, "MORE" }, { 0x04, "WANT_TIMING" }, { 0x08, "IDEMPOTENT" }, { 0x10, "RESUMABLE" },
  { 0x20, "NOT_STARTED" },
}
-- What a control frame may carry; whatever is not named is zero.
local RULES = {
  [HELLO] = { meta = 4096 }, [WELCOME] = { meta = 4096 }, [AUTH] = { meta = 4096 }, [READY] = { meta = MAX_METADATA },
  [END] = { flags = 0x20, stream = true, aux = true, ext = MAX_EXTENSION, meta = 1024 }, [CANCEL] = { stream = true },
  [PING] = { body = 8 }, [PONG] = { body = 8 }, [GOAWAY] = { stream = true, aux = true, meta = 1024 },
  [CLOSE] = { aux = true, meta = 1024 },
}
local SENDERS = {
  [HELLO] = "client", [AUTH] = "client", [OPEN] = "client", [CANCEL] = "client", [WELCOME] = "server",
  [READY] = "server", [END] = "server", [GOAWAY] = "server",
}
local ITEMS = {
  [1] = "DIMS", [2] = "BODY_LENGTH", [3] = "IDEMPOTENCY_KEY", [4] = "SESSION", [5] = "TRACE", [6] = "TIMING",
  [7] = "RETRY_AFTER", [8] = "QUEUE_ESTIMATE",
}
local ITEM_SIZES = { [2] = 8, [3] = 16, [4] = 24, [5] = 25, [6] = 28, [7] = 4, [8] = 4 }
local ALLOWED = {
  open = { [1] = true, [2] = true, [5] = true }, data = { [1] = true, [2] = true },
  last = { [1] = true, [2] = true, [6] = true }, finish = { [6] = true, [7] = true, [8] = true },
}
local TIMINGS = { "receive", "queue", "batch_wait", "copy_in", "compute", "copy_out", "server_total" }
local ENTRIES = {
  [1] = "VERSIONS", [2] = "DRAFT", [3] = "NONCE", [4] = "FEATURES", [5] = "FEATURES_REQUIRED", [6] = "MAC",
  [7] = "KEY_ID", [8] = "LIMITS", [9] = "AGENT", [10] = "CONNECTION_ID", [11] = "BOOT_ID", [12] = "CREDIT",
  [13] = "PROOF",
}
-- Least and greatest length, and step, of the values of an entry; required in which frames.
local ENTRY_SIZES = {
  [HELLO] = {
    [1] = { 4, 4, 1, true }, [2] = { 4, 4, 1, true }, [3] = { 32, 32, 1, true }, [4] = { 0, 4095, 2, true },
    [5] = { 0, 4095, 2 }, [6] = { 1, 255, 1, true }, [7] = { 1, 64, 1 }, [8] = { 16, 16, 1, true }, [9] = { 1, 128, 1 },
  },
  [WELCOME] = {
    [1] = { 4, 4, 1, true }, [2] = { 4, 4, 1, true }, [3] = { 32, 32, 1, true }, [4] = { 0, 4095, 2, true },
    [6] = { 1, 1, 1, true }, [8] = { 16, 16, 1, true }, [9] = { 1, 128, 1 }, [10] = { 8, 8, 1, true },
    [11] = { 16, 16, 1, true }, [13] = { 32, 32, 1 },
  },
  [AUTH] = { [13] = { 32, 32, 1 } },
}
local MACS = { [0] = "none", [1] = "hmac-sha256", [2] = "aes-256-gmac" }
local KINDS = { [0] = "DENSE", [1] = "STRING", [2] = "RAGGED" }
-- By code * 1000 + bits; lanes are 1.
local DTYPES = {
  [6008] = "bool", [8] = "int8", [16] = "int16", [32] = "int32", [64] = "int64", [1008] = "uint8",
  [1016] = "uint16", [1032] = "uint32", [1064] = "uint64", [2016] = "float16", [2032] = "float32",
  [2064] = "float64", [4016] = "bfloat16", [5064] = "complex64", [5128] = "complex128",
  [7008] = "float8_e3m4", [8008] = "float8_e4m3", [9008] = "float8_e4m3b11fnuz", [10008] = "float8_e4m3fn",
  [11008] = "float8_e4m3fnuz", [12008] = "float8_e5m2", [13008] = "float8_e5m2fnuz", [14008] = "float8_e8m0fnu",
}

---- Fields and expert infos ----

local F = {
  preface = ProtoField.bytes("tensorwire.preface", "Preface"),
  sender = ProtoField.string("tensorwire.sender", "Sender"),
  length = ProtoField.uint32("tensorwire.length", "Length"),
  type = ProtoField.uint8("tensorwire.type", "Type", base.DEC, TYPES),
  priority = ProtoField.uint8("tensorwire.priority", "Priority"),
  flags = ProtoField.uint16("tensorwire.flags", "Flags", base.HEX),
  stream_id = ProtoField.uint64("tensorwire.stream_id", "Stream id"),
  seq = ProtoField.uint32("tensorwire.seq", "Seq"),
  aux = ProtoField.uint32("tensorwire.aux", "Aux"),
  deadline = ProtoField.uint32("tensorwire.deadline_us", "Remaining time (microseconds)"),
  status = ProtoField.uint32("tensorwire.status", "Status", base.DEC, STATUSES),
  code = ProtoField.uint32("tensorwire.error_code", "Error code", base.DEC, CODES),
  meta_len = ProtoField.uint32("tensorwire.meta_len", "Metadata length"),
  ext_len = ProtoField.uint16("tensorwire.ext_len", "Extension length"),
  reserved = ProtoField.uint16("tensorwire.reserved", "Reserved", base.HEX),
  body_len = ProtoField.uint32("tensorwire.body_len", "Body length"),
  body = ProtoField.none("tensorwire.body", "Body"),
  payload = ProtoField.bytes("tensorwire.payload", "Payload"),
  detail = ProtoField.string("tensorwire.detail", "Detail"),
  unread = ProtoField.none("tensorwire.unread", "Bytes that could not be read as frames"),
  record_length = ProtoField.uint32("tensorwire.record.length", "Bytes of frames"),
  tag = ProtoField.bytes("tensorwire.record.tag", "Tag"),
  tag_check = ProtoField.string("tensorwire.record.check", "Tag is"),
  -- extension
  item = ProtoField.uint8("tensorwire.item", "Extension item", base.DEC, ITEMS),
  dim = ProtoField.uint64("tensorwire.dim", "Dim"),
  body_length = ProtoField.uint64("tensorwire.body_length", "Length of the whole body"),
  idempotency_key = ProtoField.bytes("tensorwire.idempotency_key", "Idempotency key"),
  session = ProtoField.bytes("tensorwire.session", "Session"),
  state_seq = ProtoField.uint64("tensorwire.state_seq", "State seq"),
  trace = ProtoField.bytes("tensorwire.trace_id", "Trace id"),
  span = ProtoField.bytes("tensorwire.span_id", "Parent span id"),
  trace_flags = ProtoField.uint8("tensorwire.trace_flags", "Trace flags", base.HEX),
  retry_after = ProtoField.uint32("tensorwire.retry_after_us", "Retry after (microseconds)"),
  queue_estimate = ProtoField.uint32("tensorwire.queue_estimate_us", "Queue estimate (microseconds)"),
  -- handshake
  entry = ProtoField.uint16("tensorwire.entry", "Entry", base.DEC, ENTRIES),
  version_min = ProtoField.uint16("tensorwire.version_min", "Version, least"),
  version_max = ProtoField.uint16("tensorwire.version_max", "Version, greatest"),
  draft = ProtoField.uint32("tensorwire.draft", "Draft"),
  nonce = ProtoField.bytes("tensorwire.nonce", "Nonce"),
  feature = ProtoField.uint16("tensorwire.feature", "Feature", base.HEX_DEC),
  feature_required = ProtoField.uint16("tensorwire.feature_required", "Feature required", base.HEX_DEC),
  mac = ProtoField.uint8("tensorwire.mac", "MAC", base.DEC, MACS),
  key_id = ProtoField.bytes("tensorwire.key_id", "Key id"),
  chunk = ProtoField.uint32("tensorwire.chunk", "Largest chunk"),
  max_streams = ProtoField.uint32("tensorwire.max_streams", "Streams open at once"),
  max_message = ProtoField.uint64("tensorwire.max_message", "Largest message"),
  agent = ProtoField.string("tensorwire.agent", "Agent"),
  connection_id = ProtoField.bytes("tensorwire.connection_id", "Connection id"),
  boot_id = ProtoField.bytes("tensorwire.boot_id", "Boot id"),
  proof = ProtoField.bytes("tensorwire.proof", "Proof"),
  entry_value = ProtoField.bytes("tensorwire.entry_value", "Value"),
  ready = ProtoField.string("tensorwire.ready", "Ready"),
  principal = ProtoField.string("tensorwire.principal", "Principal"),
  -- tensors
  model = ProtoField.string("tensorwire.model", "Model"),
  model_version = ProtoField.string("tensorwire.model_version", "Model version"),
  tensor = ProtoField.string("tensorwire.tensor", "Tensor"),
  tensor_name = ProtoField.string("tensorwire.tensor.name", "Name"),
  tensor_dtype = ProtoField.string("tensorwire.tensor.dtype", "Dtype"),
  tensor_kind = ProtoField.string("tensorwire.tensor.kind", "Kind"),
  tensor_rank = ProtoField.uint8("tensorwire.tensor.rank", "Rank"),
  tensor_shape = ProtoField.string("tensorwire.tensor.shape", "Shape"),
  -- the stream
  request_in = ProtoField.framenum("tensorwire.request_in", "Opened in", base.NONE, frametype.REQUEST),
  response_in = ProtoField.framenum("tensorwire.response_in", "Ended in", base.NONE, frametype.RESPONSE),
  time = ProtoField.relative_time("tensorwire.time", "Time since it was opened"),
}
local FLAG_FIELDS = {}
for index, flag in ipairs(FLAGS) do
  FLAG_FIELDS[index] = ProtoField.bool("tensorwire.flags." .. flag[2]:lower(), flag[2], 16, nil, flag[1])
  F["flag" .. index] = FLAG_FIELDS[index]
end
local TIMING_FIELDS = {}
for index, name in ipairs(TIMINGS) do
  TIMING_FIELDS[index] = ProtoField.uint32("tensorwire.timing." .. name .. "_us", name .. " (microseconds)")
  F["timing" .. index] = TIMING_FIELDS[index]
end
tensorwire.fields = F

local malformed = ProtoExpert.new("tensorwire.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
local incomplete = ProtoExpert.new("tensorwire.incomplete", "Incomplete", expert.group.UNDECODED, expert.severity.NOTE)
tensorwire.experts = { malformed, incomplete }

tensorwire.prefs.port = Pref.uint("TCP port", 7411, "Dissected without a preface too; 0 for none")

---- Small helpers ----

local EMPTY = { len = function() return 0 end } -- a range of no bytes, which Wireshark does not have

local function name_of(names, number) return names[number] or tostring(number) end

local function has(flags, bit) return flags % (2 * bit) >= bit end

-- A peer's text for a label: printable ASCII, capped.
local function printable(text, most)
  most = most or 64
  local shown = text:sub(1, most):gsub("[^\x20-\x7e]", function(c) return string.format("\\x%02x", c:byte()) end)
  return #text > most and shown .. "..." or shown
end

local function is_utf8(text)
  local at, size = 1, #text
  while at <= size do
    local lead = text:byte(at)
    local more = lead < 0x80 and 0 or lead >= 0xc2 and lead < 0xe0 and 1 or lead >= 0xe0 and lead < 0xf0 and 2
      or lead >= 0xf0 and lead < 0xf5 and 3
    if not more or at + more > size then return false end
    for n = at + 1, at + more do
      if text:byte(n) < 0x80 or text:byte(n) > 0xbf then return false end
    end
    local second = more > 1 and text:byte(at + 1)
    if (lead == 0xe0 and second < 0xa0) or (lead == 0xed and second > 0x9f) or (lead == 0xf0 and second < 0x90)
      or (lead == 0xf4 and second > 0x8f) then
      return false
    end
    at = at + more + 1
  end
  return true
end

-- A peer's text as the value of a field: as it is where that is plain UTF-8, else escaped. (Wireshark ends a string that it
-- reads by itself at the first zero byte.)
local function text_of(range)
  local raw = range:raw()
  if is_utf8(raw) and not raw:find("%c") then return raw end
  return printable(raw, 1024)
end

local function flag_names(flags)
  local names = {}
  for _, flag in ipairs(FLAGS) do
    if has(flags, flag[1]) then names[#names + 1] = flag[2] end
  end
  return table.concat(names, "+")
end

---- Header (SPEC 3) ----

-- The fields of the 32 bytes at `at`, which are there.
local function read_header(tvb, at)
  local header = {
    length = tvb(at, 4):le_uint(), type = tvb(at + 4, 1):uint(), priority = tvb(at + 5, 1):uint(),
    flags = tvb(at + 6, 2):le_uint(), stream = tostring(tvb(at + 8, 8):le_uint64()), seq = tvb(at + 16, 4):le_uint(),
    aux = tvb(at + 20, 4):le_uint(), meta_len = tvb(at + 24, 4):le_uint(), ext_len = tvb(at + 28, 2):le_uint(),
    reserved = tvb(at + 30, 2):le_uint(),
  }
  header.body_len = header.length - header.meta_len - header.ext_len
  return header
end

-- Whether the lengths can be followed: a receiver closes on others, and nothing behind them can be told apart.
local function framing_holds(h)
  return h.ext_len <= MAX_EXTENSION and h.meta_len <= MAX_METADATA and h.body_len >= 0 and h.body_len <= MAX_CHUNK
end

local STRAY = "a field or flag that this type does not use is not zero"

local function message_problem(h)
  local chunk = h.type == DATA and h.meta_len == 0 and h.ext_len == 0
  if h.meta_len > MAX_METADATA or h.ext_len > MAX_EXTENSION then return "TOO_LARGE: extension or metadata" end
  if h.body_len < 0 then return "FRAME: length is less than extension and metadata" end
  if h.body_len > (chunk and MAX_CHUNK or INLINE_BODY) then return "TOO_LARGE: body of " .. h.body_len .. " bytes" end
  if h.reserved ~= 0 or h.flags >= (h.type == OPEN and 8 or 4) or (h.type == DATA and h.aux ~= 0) then
    return "FRAME: " .. STRAY
  end
  if has(h.flags, MORE) and h.body_len > 0 and not chunk then return "FRAME: a body beside MORE on a first frame" end
end

local function control_problem(h, rule)
  if h.ext_len > (rule.ext or 0) or h.meta_len > (rule.meta or 0) then return "TOO_LARGE: extension or metadata" end
  if h.body_len ~= (rule.body or 0) then return "FRAME: body of " .. h.body_len .. " bytes" end
  if (h.flags ~= 0 and h.flags ~= rule.flags) or h.priority ~= 0 or h.seq ~= 0 or h.reserved ~= 0
    or (h.aux ~= 0 and not rule.aux) or (h.stream ~= "0" and not rule.stream) then
    return "FRAME: " .. STRAY
  end
end

-- What is wrong with a header on its own; nil if nothing is.
local function header_problem(h)
  local problem
  if h.type == OPEN or h.type == DATA then
    problem = message_problem(h)
  elseif RULES[h.type] then
    problem = control_problem(h, RULES[h.type])
  else
    return "FRAME: type " .. name_of(TYPES, h.type) .. " is unknown, or not built"
  end
  if not problem and h.stream == "0" and (h.type == OPEN or h.type == DATA or h.type == END or h.type == CANCEL) then
    problem = "STREAM: " .. TYPES[h.type] .. " on stream 0"
  end
  return problem
end

-- Whether a header that nothing vouches for may be one: right in every field, OPEN the first of its stream and with
-- metadata, DATA with metadata or a chunk. Zeros behind a few small numbers would else be frames.
local function plausible(h)
  if h.type == OPEN and (h.seq ~= 0 or h.meta_len < 8) then return false end
  if h.type == DATA and h.meta_len < 8 and (h.meta_len > 0 or h.ext_len > 0 or h.flags == 0) then return false end
  return not header_problem(h)
end

-- What the sender may not send, or not so (SPEC 6.1, 6.5).
local function misplaced_problem(h, sender)
  if SENDERS[h.type] and sender ~= "" and sender ~= SENDERS[h.type] then
    return "PROTOCOL: " .. TYPES[h.type] .. " from the " .. sender
  end
  if h.type == END and h.aux > 16 then return "FRAME: status " .. h.aux .. " is none of 0 to 16" end
  if h.type == END and h.aux == 0 and h.flags ~= 0 then return "FRAME: NOT_STARTED beside OK" end
end

local function add_header(tree, range, h)
  tree:add_le(F.length, range(0, 4))
  tree:add_le(F.type, range(4, 1))
  tree:add_le(F.priority, range(5, 1))
  local flags = tree:add_le(F.flags, range(6, 2))
  for _, field in ipairs(FLAG_FIELDS) do flags:add_le(field, range(6, 2)) end
  if h.flags ~= 0 then flags:append_text(" (" .. flag_names(h.flags) .. ")") end
  tree:add_le(F.stream_id, range(8, 8))
  tree:add_le(F.seq, range(16, 4))
  local aux = tree:add_le(F.aux, range(20, 4))
  if h.type == OPEN then aux:add_le(F.deadline, range(20, 4)) end
  if h.type == END then aux:add_le(F.status, range(20, 4)) end
  if h.type == GOAWAY or h.type == CLOSE then aux:add_le(F.code, range(20, 4)) end
  tree:add_le(F.meta_len, range(24, 4))
  tree:add_le(F.ext_len, range(28, 2))
  tree:add_le(F.reserved, range(30, 2))
  if h.body_len >= 0 then tree:add(F.body_len, h.body_len):set_generated() end
end

---- Extension (SPEC 4) ----

local function add_item(tree, kind, value, found)
  if kind == 1 then
    for at = 0, value:len() - 8, 8 do
      tree:add_le(F.dim, value(at, 8))
      local dim = value(at + 4, 4):le_uint() * 2 ^ 32 + value(at, 4):le_uint()
      found.dims[#found.dims + 1] = { size = dim, text = tostring(value(at, 8):le_uint64()) }
    end
  elseif kind == 2 then
    tree:add_le(F.body_length, value)
    found.body_length = value(4, 4):le_uint() * 2 ^ 32 + value(0, 4):le_uint()
  elseif kind == 3 then
    tree:add(F.idempotency_key, value)
  elseif kind == 4 then
    tree:add(F.session, value(0, 16))
    tree:add_le(F.state_seq, value(16, 8))
  elseif kind == 5 then
    tree:add(F.trace, value(0, 16))
    tree:add(F.span, value(16, 8))
    tree:add(F.trace_flags, value(24, 1))
  elseif kind == 6 then
    for index, field in ipairs(TIMING_FIELDS) do tree:add_le(field, value(4 * index - 4, 4)) end
  elseif kind == 7 then
    tree:add_le(F.retry_after, value)
  else
    tree:add_le(F.queue_estimate, value)
  end
end

-- Which items may stand here; nil where that is not known.
local function place_of(h, sender)
  if h.type == OPEN then return ALLOWED.open end
  if h.type == END then return ALLOWED.finish end
  if h.type ~= DATA or sender == "" then return nil end
  return sender == "server" and has(h.flags, END_STREAM) and ALLOWED.last or ALLOWED.data
end

-- Whether an item of this type and size may follow the last one; nil if it may, else what is wrong.
local function item_problem(kind, size, last, last_size)
  if kind < last or (kind == last and (kind ~= 1 or last_size < 248)) then
    return "EXTENSION: item " .. kind .. " follows " .. last
  end
  if not (kind == 1 and size > 0 and size % 8 == 0 or ITEM_SIZES[kind] == size) then
    return "EXTENSION: item " .. name_of(ITEMS, kind) .. " of " .. size .. " bytes"
  end
end

-- Items to the tree; the dims and the length of the body that they name, and the first problem. dims are nil after one.
local function add_extension(tree, range, h, sender)
  local found = { dims = {} }
  local place, at, last, last_size = place_of(h, sender), 0, 0, 0
  while at < range:len() do
    if at + 2 > range:len() or at + 2 + range(at + 1, 1):uint() > range:len() then
      return { problem = "EXTENSION: the item at " .. at .. " runs past the end" }
    end
    local kind, size = range(at, 1):uint(), range(at + 1, 1):uint()
    local item = tree:add(F.item, range(at, 1))
    item:set_len(2 + size)
    local problem = item_problem(kind, size, last, last_size)
    if problem then return { problem = problem } end
    if place and not place[kind] then found.problem = "EXTENSION: " .. ITEMS[kind] .. " may not stand here" end
    add_item(item, kind, range(at + 2, size), found)
    at, last, last_size = at + 2 + size, kind, size
  end
  if (h.type == OPEN or h.type == DATA) and has(h.flags, MORE) ~= (found.body_length ~= nil) then
    found.problem = "EXTENSION: BODY_LENGTH and MORE belong together"
  end
  return found
end

---- Handshake entries (SPEC 9.2 to 9.6) ----

local function add_numbers(tree, field, value, size)
  for at = 0, value:len() - size, size do tree:add_le(field, value(at, size)) end
end

local ENTRY_VALUES = {
  [1] = function(tree, value)
    tree:add_le(F.version_min, value(0, 2))
    tree:add_le(F.version_max, value(2, 2))
  end,
  [2] = function(tree, value) tree:add_le(F.draft, value) end,
  [3] = function(tree, value) tree:add(F.nonce, value) end,
  [4] = function(tree, value) add_numbers(tree, F.feature, value, 2) end,
  [5] = function(tree, value) add_numbers(tree, F.feature_required, value, 2) end,
  [6] = function(tree, value) add_numbers(tree, F.mac, value, 1) end,
  [7] = function(tree, value) tree:add(F.key_id, value) end,
  [8] = function(tree, value)
    tree:add_le(F.chunk, value(0, 4))
    tree:add_le(F.max_streams, value(4, 4))
    tree:add_le(F.max_message, value(8, 8))
  end,
  [9] = function(tree, value) tree:add(F.agent, value, text_of(value)) end,
  [10] = function(tree, value) tree:add(F.connection_id, value) end,
  [11] = function(tree, value) tree:add(F.boot_id, value) end,
  [13] = function(tree, value) tree:add(F.proof, value) end,
}

-- What the values of known entries must be beside their length.
local function entries_problem(h, seen)
  for kind, rule in pairs(ENTRY_SIZES[h.type]) do
    if rule[4] and not seen[kind] then return "HANDSHAKE: entry " .. ENTRIES[kind] .. " is missing" end
  end
  if h.type == AUTH then return nil end
  local chunk, streams = seen[8](0, 4):le_uint(), seen[8](4, 4):le_uint()
  local message = seen[8](12, 4):le_uint() * 2 ^ 32 + seen[8](8, 4):le_uint()
  if chunk < 16384 or chunk > MAX_CHUNK or message < INLINE_BODY or (streams > 0) ~= (h.type == WELCOME) then
    return "HANDSHAKE: LIMITS out of range"
  end
  if h.type == WELCOME and seen[1](0, 2):le_uint() ~= seen[1](2, 2):le_uint() then
    return "HANDSHAKE: WELCOME names more than one version"
  end
  local offered = {}
  if seen[5] then
    for at = 0, seen[4]:len() - 2, 2 do offered[seen[4](at, 2):le_uint()] = true end
    for at = 0, seen[5]:len() - 2, 2 do
      if not offered[seen[5](at, 2):le_uint()] then return "HANDSHAKE: a feature is required but not offered" end
    end
  end
end

-- Entries to the tree; the problem, and the MAC where one is chosen.
local function add_entries(tree, range, h)
  local sizes, seen = ENTRY_SIZES[h.type], {}
  local at, last, problem = 0, -1, nil
  while at < range:len() do
    if at + 4 > range:len() or at + 4 + range(at + 2, 2):le_uint() > range:len() then
      return "HANDSHAKE: the entry at " .. at .. " runs past the end"
    end
    local kind, size = range(at, 2):le_uint(), range(at + 2, 2):le_uint()
    local entry = tree:add_le(F.entry, range(at, 2))
    entry:set_len(4 + size)
    if kind <= last then return "HANDSHAKE: entry " .. kind .. " follows " .. last end
    local value, rule = size > 0 and range(at + 4, size) or nil, sizes[kind]
    if rule and (size < rule[1] or size > rule[2] or size % rule[3] ~= 0) then
      problem = problem or "HANDSHAKE: entry " .. ENTRIES[kind] .. " of " .. size .. " bytes"
    elseif rule and value then
      ENTRY_VALUES[kind](entry, value)
      seen[kind] = value
    elseif rule then
      seen[kind] = EMPTY
    elseif value then
      entry:add(F.entry_value, value)
    end
    at, last = at + 4 + size, kind
  end
  return problem or entries_problem(h, seen), seen[6] and seen[6]:len() == 1 and seen[6]:uint() or 0
end

---- Reading regions that are nested ----

-- What a region says is read before anything of it is shown: `fail` ends the reading, `try` gives its words.
local function fail(text) error({ problem = text }, 0) end

local function try(read, ...)
  local good, result = pcall(read, ...)
  if good then return result, nil end
  if type(result) ~= "table" or not result.problem then error(result, 0) end
  return nil, result.problem
end

---- READY: msgpack (SPEC 9.8, 16.2) ----

local MAX_DEPTH, MAX_VALUES = 8, 16384

local function msgpack_need(range, at, count)
  if at + count > range:len() then fail("HANDSHAKE: READY ends within a value") end
  return range(at, count)
end

local msgpack_value -- one value: its text and where it ends

local function msgpack_items(range, at, count, depth, budget, keys)
  local texts = {}
  if depth >= MAX_DEPTH then fail("HANDSHAKE: READY is nested deeper than " .. MAX_DEPTH) end
  for _ = 1, count do
    local key, text = nil, nil
    if keys then
      key, at = msgpack_value(range, at, depth + 1, budget)
    end
    local start = at
    text, at = msgpack_value(range, at, depth + 1, budget)
    if keys and depth == 0 and key == "principal" then budget.principal = range(start, at - start) end
    if #texts < 64 then texts[#texts + 1] = keys and key .. ": " .. text or text end
  end
  local open, close = keys and "{" or "[", keys and "}" or "]"
  return open .. table.concat(texts, ", ") .. close, at
end

local function msgpack_text(range, at, size)
  if size == 0 then return "", at end
  return printable(msgpack_need(range, at, size):raw()), at + size
end

local MSGPACK_NUMBERS = {
  [0xca] = { 4, function(r) return r:float() end }, [0xcb] = { 8, function(r) return r:float() end },
  [0xcc] = { 1, function(r) return r:uint() end }, [0xcd] = { 2, function(r) return r:uint() end },
  [0xce] = { 4, function(r) return r:uint() end }, [0xcf] = { 8, function(r) return r:uint64() end },
  [0xd0] = { 1, function(r) return r:int() end }, [0xd1] = { 2, function(r) return r:int() end },
  [0xd2] = { 4, function(r) return r:int() end }, [0xd3] = { 8, function(r) return r:int64() end },
}
local MSGPACK_CONSTANTS = { [0xc0] = "nil", [0xc2] = "false", [0xc3] = "true" }
local MSGPACK_SIZED = { -- bytes of the length; what follows
  [0xc4] = { 1, "text" }, [0xc5] = { 2, "text" }, [0xc6] = { 4, "text" }, [0xd9] = { 1, "text" }, [0xda] = { 2, "text" },
  [0xdb] = { 4, "text" }, [0xdc] = { 2, "list" }, [0xdd] = { 4, "list" }, [0xde] = { 2, "map" }, [0xdf] = { 4, "map" },
}

function msgpack_value(range, at, depth, budget)
  budget.values = budget.values + 1
  if budget.values > MAX_VALUES then fail("HANDSHAKE: READY has more than " .. MAX_VALUES .. " values") end
  local byte = msgpack_need(range, at, 1):uint()
  at = at + 1
  if byte < 0x80 then return tostring(byte), at end
  if byte >= 0xe0 then return tostring(byte - 256), at end
  if byte < 0x90 then return msgpack_items(range, at, byte - 0x80, depth, budget, true) end
  if byte < 0xa0 then return msgpack_items(range, at, byte - 0x90, depth, budget, false) end
  if byte < 0xc0 then return msgpack_text(range, at, byte - 0xa0) end
  if MSGPACK_CONSTANTS[byte] then return MSGPACK_CONSTANTS[byte], at end
  local number, sized = MSGPACK_NUMBERS[byte], MSGPACK_SIZED[byte]
  if number then return tostring(number[2](msgpack_need(range, at, number[1]))), at + number[1] end
  if not sized then fail(string.format("HANDSHAKE: READY has a value of type 0x%02x", byte)) end
  local size = msgpack_need(range, at, sized[1]):uint()
  at = at + sized[1]
  if sized[2] == "text" then return msgpack_text(range, at, size) end
  return msgpack_items(range, at, size, depth, budget, sized[2] == "map")
end

local function read_ready(range)
  local budget = { values = 0 }
  local first = range(0, 1):uint()
  if not (first >= 0x80 and first < 0x90) and first ~= 0xde and first ~= 0xdf then fail("HANDSHAKE: READY is no map") end
  local text, at = msgpack_value(range, 0, 0, budget)
  if at ~= range:len() then fail("HANDSHAKE: READY has bytes behind its map") end
  return { text = text, principal = budget.principal }
end

local function add_ready(tree, range)
  local ready, problem = try(read_ready, range)
  if not ready then return problem end
  tree:add(F.ready, range, ready.text:sub(1, 4096))
  if not ready.principal then return "HANDSHAKE: READY names no principal" end
  local text = ready.principal
  local lead = text(0, 1):uint() < 0xc0 and 1 or 2
  if text:len() > lead then tree:add(F.principal, text(lead), text_of(text(lead))) end
end

---- Tensor metadata: FlatBuffers (SPEC 18, tensor.fbs) ----

local Reader = {}
Reader.__index = Reader

-- Proves that bytes [at, at + size) are there and aligned, within a budget on all that is visited.
function Reader:visit(at, size, alignment, what)
  if at % alignment ~= 0 then fail("metadata: " .. what .. " is not aligned to " .. alignment) end
  if at < 0 or at + size > self.size then fail("metadata: " .. what .. " leaves the buffer") end
  self.budget = self.budget - size
  if self.budget < 0 then fail("metadata: offsets are shared") end
  return self.range(at, size)
end

-- Position of each of the table's fields, false for an absent one.
function Reader:table(at, count, what)
  local vtable = at - self:visit(at, 4, 4, what):le_int()
  local head = self:visit(vtable, 4, 2, what .. " vtable")
  local vtable_size, table_size = head(0, 2):le_uint(), head(2, 2):le_uint()
  if vtable_size < 4 or vtable_size % 2 ~= 0 or vtable_size > 4 + 2 * count then
    fail("metadata: " .. what .. " vtable of " .. vtable_size .. " bytes")
  end
  local slots = self:visit(vtable, vtable_size, 2, what .. " vtable")
  if table_size < 4 then fail("metadata: " .. what .. " of " .. table_size .. " bytes") end
  self:visit(at, table_size, 4, what)
  local fields = { at = at, size = table_size }
  for index = 1, count do
    local slot = 2 + 2 * index < vtable_size and slots(2 + 2 * index, 2):le_uint() or 0
    if slot ~= 0 and (slot < 4 or slot >= table_size) then fail("metadata: " .. what .. " has a field outside") end
    fields[index] = slot ~= 0 and at + slot
  end
  return fields
end

-- An inline field, which ends inside its table.
function Reader:inside(fields, index, size, alignment, what)
  if fields[index] + size > fields.at + fields.size then fail("metadata: " .. what .. " leaves its table") end
  return self:visit(fields[index], size, alignment, what)
end

-- Where the offset at `at` leads: forward only, so no cycle is possible.
function Reader:follow(at, what)
  local offset = self.range(at, 4):le_uint()
  if offset < 4 then fail("metadata: " .. what .. " points at or before itself") end
  return at + offset
end

-- The number of items of the vector at `at`.
function Reader:vector(at, item, alignment, most, what)
  local count = self:visit(at, 4, 4, what):le_uint()
  if count > most then fail("metadata: " .. what .. " has " .. count .. " items, at most " .. most) end
  if count > 0 then self:visit(at + 4, count * item, alignment, what) end
  return count
end

-- The range of the string that field `index` points to, nil for an empty one, and its bytes.
function Reader:string(fields, index, what)
  self:inside(fields, index, 4, 4, what)
  local at = self:follow(fields[index], what)
  local count = self:vector(at, 1, 1, 256, what)
  if self:visit(at + 4 + count, 1, 1, what .. " terminator"):uint() ~= 0 then
    fail("metadata: " .. what .. " does not end with a zero byte")
  end
  if count == 0 then return nil, "" end
  local text = self.range(at + 4, count)
  if not is_utf8(text:raw()) then fail("metadata: " .. what .. " is not UTF-8") end
  return text, text:raw()
end

function Reader:shape(tensor, fields, what)
  if not fields[4] then return end
  self:inside(fields, 4, 4, 4, what)
  local at = self:follow(fields[4], what)
  for index = 1, self:vector(at, 8, 8, 8, what) do
    local entry = self.range(at + 8 * index - 4, 8)
    local low, high = entry(0, 4):le_uint(), entry(4, 4):le_uint()
    local size = high * 2 ^ 32 + low
    if low == 0xffffffff and high == 0xffffffff then
      size = -1
    elseif size > 2 ^ 48 then
      fail("metadata: " .. what .. " has a dimension that is out of range")
    end
    tensor.shape[index] = size
  end
end

function Reader:tensor(at, what)
  local fields = self:table(at, 4, what)
  if not fields[1] or not fields[2] then fail("metadata: " .. what .. " lacks its name or dtype") end
  local tensor = { range = self.range(at, fields.size), shape = {}, kind = 0 }
  tensor.name_range, tensor.name = self:string(fields, 1, what .. ".name")
  tensor.dtype_range = self:inside(fields, 2, 4, 2, what .. ".dtype")
  local code, bits, lanes = tensor.dtype_range(0, 1):uint(), tensor.dtype_range(1, 1):uint(), tensor.dtype_range(2, 2):le_uint()
  tensor.dtype, tensor.itemsize = lanes == 1 and DTYPES[code * 1000 + bits], bits / 8
  if fields[3] then tensor.kind = self:inside(fields, 3, 1, 1, what .. ".kind"):uint() end
  if tensor.kind > 2 then fail("metadata: " .. what .. ".kind is " .. tensor.kind) end
  self:shape(tensor, fields, what .. ".shape")
  if not tensor.dtype then fail("metadata: " .. what .. ".dtype is unknown") end
  if tensor.name == "" then fail("metadata: " .. what .. " has an empty name") end
  if tensor.kind == 1 and tensor.dtype ~= "uint8" then fail("metadata: " .. what .. " is STRING but not uint8") end
  if tensor.kind == 2 and #tensor.shape == 0 then fail("metadata: " .. what .. " is RAGGED without a dimension") end
  return tensor
end

local function read_metadata(range)
  local reader = setmetatable({ range = range, size = range:len(), budget = 4 * range:len() }, Reader)
  if reader.size < 8 or range(4, 4):raw() ~= "TWM1" then fail("metadata: not a buffer with the identifier TWM1") end
  local fields = reader:table(reader:follow(0, "root"), 3, "root")
  if not fields[1] or not fields[3] then fail("metadata: the root lacks its model or tensors") end
  local found, names = { tensors = {} }, {}
  found.model_range, found.model = reader:string(fields, 1, "model")
  if fields[2] then found.version_range = reader:string(fields, 2, "version") end
  reader:inside(fields, 3, 4, 4, "tensors")
  local vector = reader:follow(fields[3], "tensors")
  for index = 1, reader:vector(vector, 4, 4, 1024, "tensors") do
    local what = "tensors[" .. index - 1 .. "]"
    local tensor = reader:tensor(reader:follow(vector + 4 * index, what), what)
    if names[tensor.name] then fail("metadata: a name appears twice") end
    names[tensor.name] = true
    found.tensors[index] = tensor
  end
  if found.model == "" then fail("metadata: the model has an empty name") end
  return found
end

-- Puts the free sizes into the shapes; the exact length of the body (SPEC 18.4 to 18.6).
local function read_layout(found, dims)
  local used, whole = 0, 0
  local function free()
    used = used + 1
    if not dims[used] then fail("dims: too few for the free sizes") end
    if dims[used].size > 2 ^ 48 then fail("dims: " .. dims[used].text .. " is out of range") end
    return dims[used].size
  end
  local function place(shape, first, size)
    local product, wide = size, size
    for index = first, #shape do
      product = product * shape[index]
      wide = wide * math.max(shape[index], 1)
    end
    if wide > 2 ^ 56 then fail("a tensor is too large") end
    if product > 0 then whole = math.ceil(whole / 64) * 64 + product end
    if whole > 2 ^ 56 then fail("the body is too large") end
  end
  local function rows(shape, last)
    local product, wide = 1, 1
    for index = 1, last do
      product = product * shape[index]
      wide = wide * math.max(shape[index], 1)
    end
    if wide > 2 ^ 56 then fail("a tensor is too large") end
    return product
  end
  for _, tensor in ipairs(found.tensors) do
    for index, size in ipairs(tensor.shape) do
      if size == -1 then tensor.shape[index] = free() end
    end
    if tensor.kind == 0 then
      place(tensor.shape, 1, tensor.itemsize)
    else
      local items = free()
      place({ rows(tensor.shape, tensor.kind == 1 and #tensor.shape or 1) + 1 }, 1, 8)
      local values = { items }
      for index = 2, tensor.kind == 2 and #tensor.shape or 0 do values[index] = tensor.shape[index] end
      place(values, 1, tensor.itemsize)
    end
  end
  if used ~= #dims then fail("dims: " .. #dims .. " of them, expected " .. used) end
  return { length = whole }
end

local function add_tensor(tree, tensor)
  local sizes = {}
  for index, size in ipairs(tensor.shape) do sizes[index] = string.format("%.0f", size) end
  local shape = table.concat(sizes, ",")
  local kind = tensor.kind == 1 and "string" or tensor.kind == 2 and "ragged " .. tensor.dtype or tensor.dtype
  local label = printable(tensor.name) .. ": " .. kind .. "[" .. shape .. "]"
  local item = tree:add(F.tensor, tensor.range, label)
  item:add(F.tensor_name, tensor.name_range, text_of(tensor.name_range))
  item:add(F.tensor_dtype, tensor.dtype_range, tensor.dtype)
  item:add(F.tensor_kind, KINDS[tensor.kind]):set_generated()
  item:add(F.tensor_rank, #sizes):set_generated()
  item:add(F.tensor_shape, shape):set_generated()
end

-- Model and tensors to the tree; the problem, and words for the info column.
local function add_tensors(tree, range, h, extension)
  local found, problem = try(read_metadata, range)
  if not found then return "INVALID_ARGUMENT: " .. problem end
  local layout
  layout, problem = try(read_layout, found, extension.dims or {})
  local item = tree:add(F.model, found.model_range, text_of(found.model_range))
  if found.version_range then tree:add(F.model_version, found.version_range, text_of(found.version_range)) end
  for _, tensor in ipairs(found.tensors) do add_tensor(item, tensor) end
  local words = " " .. printable(found.model)
  if not layout then return "INVALID_ARGUMENT: " .. problem, words end
  local body = extension.body_length or h.body_len
  if body ~= layout.length then
    problem = string.format("INVALID_ARGUMENT: body of %.0f bytes, these tensors have %.0f", body, layout.length)
  end
  return problem, words
end

---- Connections: who is who, where frames begin, and what stream a frame is of ----

-- Per pair of ends a list of connections, one for each preface: the packet it begins at, client (address and port), sides
-- (where framing was lost and found, per sender), streams (opened and ended in which packet), mac and plain (what WELCOME
-- chose), signed (the packet in which records begin, per sender), guessed (whether that is known by their looks alone),
-- carried (bytes of a packet without framing that stand before the next one's, per sender). Written in the first pass, in order; read by packet number in any later one. (The field tcp.stream would tell connections apart, but has no value
-- in a pass that builds no tree.)
local connections = {}

function tensorwire.init() connections = {} end

local function end_of(address, port) return tostring(address) .. " " .. port end

-- The last entry of a list in order of packets that is of this packet or an earlier one.
local function latest(list, number)
  local low, high = 0, #list
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if list[middle].number <= number then low = middle else high = middle - 1 end
  end
  return list[low]
end

local function new_connection(list, number)
  list[#list + 1] =
    { number = number, sides = {}, streams = {}, mac = 0, plain = false, signed = {}, guessed = {}, carried = {} }
  return list[#list]
end

-- The connection that this packet is of, and the list that holds it.
local function connection_of(pinfo)
  local one, other = end_of(pinfo.src, pinfo.src_port), end_of(pinfo.dst, pinfo.dst_port)
  local key = one < other and one .. " " .. other or other .. " " .. one
  connections[key] = connections[key] or {}
  local list = connections[key]
  return latest(list, pinfo.number) or new_connection(list, pinfo.number), list
end

local function sender_of(connection, pinfo)
  if connection.client then
    return connection.client == end_of(pinfo.src, pinfo.src_port) and "client" or "server"
  end
  if pinfo.src_port == tensorwire.prefs.port then return "server" end
  return pinfo.dst_port == tensorwire.prefs.port and "client" or ""
end

-- Whether the sender's bytes are at the beginning of a frame when this packet begins.
local function in_sync(connection, side, number)
  local event = latest(connection.sides[side] or {}, number - 1)
  if event then return event.synced end
  return connection.preface ~= nil and connection.preface <= number
end

local function set_sync(connection, side, pinfo, synced)
  if pinfo.visited then return end
  connection.sides[side] = connection.sides[side] or {}
  table.insert(connection.sides[side], { number = pinfo.number, synced = synced })
end

-- How many bytes at the beginning are those of a packet before, which had no framing.
local function carried_to(connection, side, pinfo)
  local event = latest(connection.carried[side] or {}, pinfo.number - 1)
  return event and event.size or 0
end

local function carry(connection, side, pinfo, size)
  if pinfo.visited then return end
  connection.carried[side] = connection.carried[side] or {}
  table.insert(connection.carried[side], { number = pinfo.number, size = size })
end

-- Which packets a stream was opened and ended in.
local function follow_stream(tree, connection, pinfo, h, sender)
  if h.stream == "0" or h.type == GOAWAY then return end
  local stream = connection.streams[h.stream] or {}
  connection.streams[h.stream] = stream
  local last = h.type == END or (h.type == DATA and sender == "server" and has(h.flags, END_STREAM) and not has(h.flags, MORE))
  if not pinfo.visited then
    if h.type == OPEN then stream.opened, stream.opened_at = pinfo.number, pinfo.abs_ts end
    if last then stream.ended = pinfo.number end
  end
  if h.type == OPEN then
    if stream.ended then tree:add(F.response_in, stream.ended):set_generated() end
  elseif stream.opened then
    tree:add(F.request_in, stream.opened):set_generated()
    if last and pinfo.abs_ts >= stream.opened_at then
      local elapsed = pinfo.abs_ts - stream.opened_at
      local seconds = math.floor(elapsed)
      tree:add(F.time, NSTime.new(seconds, math.floor((elapsed - seconds) * 1e9))):set_generated()
    end
  end
end

---- One frame ----

local function words_of(h)
  local words = name_of(TYPES, h.type)
  if h.stream ~= "0" then words = words .. " " .. h.stream end
  if h.flags ~= 0 then words = words .. " " .. flag_names(h.flags) end
  if h.type == END then words = words .. " " .. name_of(STATUSES, h.aux) end
  if h.type == GOAWAY or h.type == CLOSE then words = words .. " " .. name_of(CODES, h.aux) end
  return words
end

-- Extension and metadata, which are there whole; the problem, and words for the info column.
local function add_regions(tree, range, h, sender, connection)
  local extension, meta, mac = {}, nil, nil
  if h.ext_len > 0 then extension = add_extension(tree, range(HEADER_SIZE, h.ext_len), h, sender) end
  if h.meta_len > 0 then meta = range(HEADER_SIZE + h.ext_len, h.meta_len) end
  local problem, words
  if h.type == HELLO or h.type == WELCOME or h.type == AUTH then
    if meta then
      problem, mac = add_entries(tree, meta, h)
      if h.type == WELCOME then 
        local chosen = not problem and not header_problem(h) and mac
        connection.mac, connection.plain = chosen and MACS[chosen] and chosen or 0, chosen and not (MACS[chosen] and chosen > 0)
      end
    elseif h.type ~= AUTH then
      problem = "HANDSHAKE: " .. TYPES[h.type] .. " without entries"
    end
  elseif h.type == READY then
    if meta then problem = add_ready(tree, meta) else problem = "HANDSHAKE: READY is empty" end
  elseif meta and (h.type == OPEN or h.type == DATA) then
    if extension.dims or h.ext_len == 0 then problem, words = add_tensors(tree, meta, h, extension) end
  elseif meta and (h.type == END or h.type == GOAWAY or h.type == CLOSE) then
    tree:add(F.detail, meta, text_of(meta))
  end
  return extension.problem or problem, words
end

-- One frame of which `available` bytes were captured; its words for the info column.
local function add_frame(tvb, at, available, pinfo, tree, h, sender, connection)
  local size = math.min(HEADER_SIZE + h.length, available)
  local range = tvb(at, size)
  local item = tree:add(tensorwire, range, "Tensorwire " .. words_of(h))
  if sender ~= "" then item:add(F.sender, sender):set_generated() end
  add_header(item, range, h)
  local problem, words = header_problem(h), nil
  problem = problem or misplaced_problem(h, sender)
  local body_at = HEADER_SIZE + h.ext_len + h.meta_len
  if size >= body_at then
    local found
    found, words = add_regions(item, range, h, sender, connection)
    problem = problem or found
  end
  if size > body_at then item:add((h.type == PING or h.type == PONG) and F.payload or F.body, range(body_at)) end
  if problem then item:add_proto_expert_info(malformed, problem) end
  if size < HEADER_SIZE + h.length then
    item:add_proto_expert_info(incomplete, size .. " of " .. HEADER_SIZE + h.length .. " bytes were captured")
  end
  follow_stream(item, connection, pinfo, h, sender)
  return words_of(h) .. (words or "") .. (problem and " [malformed]" or "")
end

---- All bytes of one direction ----

local function add_unread(tvb, at, size, tree, field, info, text)
  local item = tree:add(tensorwire, tvb(at, size), "Tensorwire, " .. text)
  item:add(field, tvb(at, size))
  item:add_proto_expert_info(info, text)
  return "[" .. text .. "]"
end

---- Records (SPEC 11.2): with a MAC, from WELCOME (server) and AUTH (client) on ----

-- Whether n and the header behind it, which are there, fit each other: the frame fills the record, or others may.
local function head_begins_record(tvb, at)
  local n, h = tvb(at, PREFIX):le_uint(), read_header(tvb, at + PREFIX)
  local rest = n - HEADER_SIZE - h.length
  local alone = rest == 0 and n <= HEADER_SIZE + MAX_CHUNK
  return (alone or (n <= INLINE_BODY and rest >= HEADER_SIZE)) and plausible(h)
end

-- Whether a tvb begins with what comes before records, in the packet in which they begin.
local function begins_handshake(tvb, at, left)
  if left < HEADER_SIZE then return false end
  local h = read_header(tvb, at)
  return (h.type == HELLO or h.type == WELCOME or h.type == AUTH) and not header_problem(h)
end

-- The frames of a record of which `size` bytes are there, then the record; words for the info column. Its tag is not
-- checked: Wireshark has no HMAC for Lua, and no place for keys.
local function add_record(tvb, at, size, pinfo, tree, sender, connection, guessed, words)
  local n = tvb(at, PREFIX):le_uint()
  local first, stop, problem = at + PREFIX, math.min(at + PREFIX + n, at + size), nil
  local frame_at, count = first, 0
  while frame_at < stop and not problem do
    local left = stop - frame_at
    local h = left >= HEADER_SIZE and read_header(tvb, frame_at)
    if not h or not framing_holds(h) or HEADER_SIZE + h.length > left then
      if size == PREFIX + n + TAG then problem = "FRAME: a frame does not end where its record ends" end
      break
    end
    words[#words + 1] = add_frame(tvb, frame_at, left, pinfo, tree, h, sender, connection)
    if count == 0 and n > INLINE_BODY and h.length ~= n - HEADER_SIZE then
      problem = "TOO_LARGE: several frames in a record of " .. n .. " bytes"
    end
    frame_at, count = frame_at + HEADER_SIZE + h.length, count + 1
  end
  local mac = guessed and "not captured" or name_of(MACS, connection.mac)
  local item = tree:add(tensorwire, tvb(at, size), "Tensorwire record, MAC " .. mac)
  item:add_le(F.record_length, tvb(at, PREFIX))
  if size == PREFIX + n + TAG then
    local check = guessed and "not checked: the handshake was not captured" or "not checked"
    item:add(F.tag, tvb(at + PREFIX + n, TAG)):append_text(" (" .. check .. ")")
    item:add(F.tag_check, check):set_generated()
  else
    item:add_proto_expert_info(incomplete, size .. " of " .. PREFIX + n + TAG .. " bytes were captured")
  end
  if problem then item:add_proto_expert_info(malformed, problem) end
end

---- Framing lost and found, as in protocol/resync.py: a record at any byte, a frame where a segment begins ----

-- What every record's n and first header have: the bytes that cannot be anything but small.
local CANDIDATE = "..[\0-\16]\0..[\0-\16]\0[\1-\8\11-\13\15].[\0-\63]\0" .. ("."):rep(16) .. "..[\0\1]\0.[\0-\4]\0\0"
local WALK = 4096 -- headers behind the first of a record that are looked at for one packet: two records of the most frames

local function extension_holds(range)
  local at, last, last_size = 0, 0, 0
  while at < range:len() do
    if at + 2 > range:len() or at + 2 + range(at + 1, 1):uint() > range:len() then return false end
    local kind, size = range(at, 1):uint(), range(at + 1, 1):uint()
    if item_problem(kind, size, last, last_size) then return false end
    at, last, last_size = at + 2 + size, kind, size
  end
  return true
end

-- Whether extension and metadata of the frame at `at` are what they must be, as far as they are there.
local function content_holds(tvb, at, total, h)
  local ext_at, meta_at = at + HEADER_SIZE, at + HEADER_SIZE + h.ext_len
  if h.ext_len > 0 and total >= meta_at and not extension_holds(tvb(ext_at, h.ext_len)) then return false end
  local named = (h.type == OPEN or h.type == DATA) and h.meta_len > 0 and total >= meta_at + 8
  return not named or tvb(meta_at + 4, 4):raw() == "TWM1"
end

-- Whether the candidate at `at` is a record, nil while more bytes must come: its frames fill it, and behind its tag nothing
-- has come yet or another record begins. A large one is judged by its head. `walk` is what is left of WALK.
local function judge_record(tvb, at, total, walk)
  local n = tvb(at, PREFIX):le_uint()
  if n > INLINE_BODY then return head_begins_record(tvb, at) end
  local pos, stop = at + PREFIX, at + PREFIX + n
  while pos < stop do
    if stop - pos < HEADER_SIZE then return false end
    if pos + HEADER_SIZE > total then return nil end
    local h = read_header(tvb, pos)
    if pos + HEADER_SIZE + h.length > stop or not plausible(h) then return false end
    if pos + HEADER_SIZE + h.ext_len + math.min(h.meta_len, 8) > total then return nil end
    if not content_holds(tvb, pos, total, h) then return false end
    if pos > at + PREFIX then
      if walk.left == 0 then return false end
      walk.left = walk.left - 1
    end
    pos = pos + HEADER_SIZE + h.length
  end
  local last = stop + TAG
  if total == last then return true end
  if total < last + PREFIX + HEADER_SIZE then return nil end
  return head_begins_record(tvb, last)
end

-- The first place from `at` on where framing holds, and what begins there: "record", "frame", or "wait" for what may be a
-- record. nil if there is none. `start` is where a segment begins, nil where no frame is looked for.
local function find_framing(tvb, at, total, start, records, can_wait)
  local raw, from, walk = tvb(at):raw(), 1, { left = WALK }
  while true do
    local found = records and raw:find(CANDIDATE, from)
    local place = found and at + found - 1
    if start and (not place or start < place) then
      local h = total - start >= HEADER_SIZE and read_header(tvb, start)
      if h and plausible(h) and content_holds(tvb, start, total, h) then return start, "frame" end
      start = nil
    end
    if not place then return nil end
    local verdict = judge_record(tvb, place, total, walk)
    if verdict then return place, "record" end
    if verdict == nil and can_wait then return place, "wait" end
    from = found + 1
  end
end

local function begins_preface(tvb, at, left)
  local size = math.min(left, #PREFACE)
  return tvb(at, size):raw() == PREFACE:sub(1, size)
end

local function more_needed(pinfo, at, count)
  pinfo.desegment_offset = at
  pinfo.desegment_len = count
end

local function dissect(tvb, pinfo, tree)
  local connection, list = connection_of(pinfo)
  local side, total = end_of(pinfo.src, pinfo.src_port), tvb:captured_len()
  local can_wait = pinfo.can_desegment > 0 and tvb:captured_len() == tvb:reported_len()
  local synced, at, words = in_sync(connection, side, pinfo.number), 0, {}
  local carried = synced and 0 or carried_to(connection, side, pinfo)
  local start, left_of = carried, total - carried -- where a segment begins
  local signed = connection.signed[side]
  local sealed = signed and (pinfo.number > signed or pinfo.number == signed and not connection.guessed[side]
    and not (left_of > 0 and begins_preface(tvb, start, left_of)) and not begins_handshake(tvb, start, left_of))
  pinfo.cols.protocol:set("tensorwire")

  -- What is from `at` on, and why, is lost; true if framing is found again, at a later `at`.
  local function find_again(info, text)
    synced = false
    set_sync(connection, side, pinfo, false)
    local records = not connection.plain
    local place, what = find_framing(tvb, at, total, not sealed and start or nil, records, can_wait)
    start = nil
    local stop = place or total
    if stop > math.max(at, carried) then
      words[#words + 1] = add_unread(tvb, at, stop - at, tree, F.unread, info, text)
    end
    if what == "wait" then
      more_needed(pinfo, place, DESEGMENT_ONE_MORE_SEGMENT)
      carry(connection, side, pinfo, 0)
    elseif not what and records and can_wait then -- a head may have begun in the last bytes
      local size = math.min(total - at, PREFIX + HEADER_SIZE - 1)
      more_needed(pinfo, total - size, DESEGMENT_ONE_MORE_SEGMENT)
      carry(connection, side, pinfo, size)
    end
    if what ~= "record" and what ~= "frame" then return false end
    at, synced = place, true
    set_sync(connection, side, pinfo, true)
    if what == "record" and not sealed then
      sealed = true
      if not pinfo.visited and not connection.signed[side] then
        connection.signed[side], connection.guessed[side] = pinfo.number, connection.mac == 0
      end
    end
    return true
  end

  while at < total do
    local left = total - at
    if begins_preface(tvb, at, left) and (left >= #PREFACE or can_wait) and left >= (sealed and 4 or synced and 1 or 4) then
      if left < #PREFACE then return more_needed(pinfo, at, #PREFACE - left) end
      sealed = false
      if not pinfo.visited then
        if connection.preface then connection = new_connection(list, pinfo.number) end -- the ports are used again
        connection.client, connection.preface = side, pinfo.number
      end
      if not synced then set_sync(connection, side, pinfo, true) end
      synced = true
      tree:add(tensorwire, tvb(at, #PREFACE), "Tensorwire preface"):add(F.preface, tvb(at, #PREFACE))
      words[#words + 1] = "PREFACE"
      at = at + #PREFACE
    elseif not synced then
      if not find_again(incomplete, sealed and "no record begins here" or "no frame begins here") then break end
    elseif sealed then
      if left < PREFIX then
        if can_wait then
          more_needed(pinfo, at, DESEGMENT_ONE_MORE_SEGMENT)
        else
          words[#words + 1] = add_unread(tvb, at, left, tree, F.unread, incomplete, "a record cut off")
        end
        break
      end
      local n = tvb(at, PREFIX):le_uint()
      local size = PREFIX + n + TAG
      if n < HEADER_SIZE or n > HEADER_SIZE + MAX_CHUNK then
        if not find_again(malformed, "a record of " .. n .. " bytes") then break end
      elseif left < size and can_wait then
        more_needed(pinfo, at, size - left)
        break
      else
        add_record(tvb, at, math.min(size, left), pinfo, tree, sender_of(connection, pinfo), connection,
          connection.guessed[side], words)
        at = at + size
      end
    elseif left < HEADER_SIZE then
      if can_wait then
        more_needed(pinfo, at, DESEGMENT_ONE_MORE_SEGMENT)
      else
        words[#words + 1] = add_unread(tvb, at, left, tree, F.unread, incomplete, "a header cut off")
      end
      break
    else
      local h = read_header(tvb, at)
      local size = HEADER_SIZE + h.length
      -- Without the start of the connection nothing but a header itself says that it is one.
      local vouched = connection.preface or connection.plain
      local problem = (not framing_holds(h) or not vouched) and header_problem(h)
      if problem or not framing_holds(h) then
        if not find_again(malformed, problem or "no header of a frame") then break end
      elseif left < size and can_wait then
        more_needed(pinfo, at, size - left)
        break
      else
        words[#words + 1] = add_frame(tvb, at, left, pinfo, tree, h, sender_of(connection, pinfo), connection)
        if connection.mac ~= 0 and (h.type == WELCOME or h.type == AUTH) then
          connection.signed[side], sealed = connection.signed[side] or pinfo.number, true
        end
        at = at + size
      end
    end
  end
  -- The space parts this from what the next frames that end in the same packet add.
  if #words > 0 then pinfo.cols.info:set(table.concat(words, ", "):sub(1, 512) .. " ") end
end

tensorwire.dissector = dissect

---- Registration: by preface on any port, and by port without one ----

local function by_preface(tvb, pinfo, tree)
  local left = tvb:captured_len()
  if left < 4 or not begins_preface(tvb, 0, left) then return false end
  pinfo.conversation = tensorwire
  dissect(tvb, pinfo, tree) -- not through the Dissector, which would count as one more layer of reassembly
  return true
end

tensorwire:register_heuristic("tcp", by_preface)

local registered = 0

local function register()
  local ports = DissectorTable.get("tcp.port")
  if registered > 0 then ports:remove(registered, tensorwire) end
  registered = tensorwire.prefs.port
  if registered > 0 then ports:add(registered, tensorwire) end
end

DissectorTable.get("tcp.port"):add_for_decode_as(tensorwire)
tensorwire.prefs_changed = register
register()
