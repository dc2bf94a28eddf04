// Reads the response streams of providers: server-sent events, and AWS event streams.
//
// Lines are kept as latin1, one character for each byte, so that a line without a change passes byte for
// byte. JSON in a line is read and written as UTF-8.

import { Buffer } from "node:buffer"
import { crc32 } from "node:zlib"

const BOM = "\xef\xbb\xbf"
// A line ends with CR LF, LF or CR.
const AFTER_LINE = /(?<=\n)|(?<=\r)(?!\n)/
const LINE_END = /\r\n$|\n$|\r$/
// The parser of the AI SDK loses the last event of a stream that ends with a CR.
const lineEnd = (end) => (end === "\r" ? "\n" : end)
const FIELD = /^(data|event|error):? ?/
// Only events with one of these keys are parsed. The text of an answer cannot contain them: the quotes
// inside a JSON string are escaped. An index above 0 is that of a second answer, or of a part of the first one.
const OF_INTEREST =
  /"(?:error|usage|usageMetadata|finish_reason|stop_reason|finishReason|stopReason|blockReason|refusal)"|"response\.(?:failed|incomplete|completed|refusal\.\w+)"|"message_(?:start|delta)"|"index"\s*:\s*[1-9]/
// Text, reasoning or a call of a tool: output that the provider may charge, whatever follows it.
const OUTPUT =
  /"(?:content|text|delta|reasoning\w*|thinking|arguments|partial_json|input|refusal|data)"\s*:\s*"[^"]|"(?:tool_calls"\s*:\s*\[|functionCall"|toolUse")\s*[{:]|"tool_use"/
// An event in several lines is collected up to this length.
const EVENT_LIMIT = 65536

const utf8 = (latin1) => Buffer.from(latin1, "latin1").toString("utf8")
const latin1 = (text) => Buffer.from(text, "utf8").toString("latin1")

function parsed(text) {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

// The error in an event: its JSON, or undefined. A key inside an answer, such as an argument of a tool, is
// not at one of these places.
function errorIn(event) {
  if (typeof event !== "object" || event === null) return
  if (Array.isArray(event)) return event.map(errorIn).find((error) => error !== undefined)
  if (event.type === "response.failed") {
    // The event repeats the whole request.
    const { id, status, error, incomplete_details, usage } = event.response ?? {}
    return { type: event.type, response: { id, status, error, incomplete_details, usage } }
  }
  const isEmpty = typeof event.error === "object" && event.error !== null && !Object.keys(event.error).length
  if ((event.error && !isEmpty) || event.type === "error") return event
  return event.choices?.some?.((choice) => choice?.error) ? event : undefined
}

// Some gateways have the key of an error in every event, and the clients read any value of it as one.
function dropEmptyError(event) {
  if (typeof event !== "object" || event === null || !("error" in event)) return false
  return delete event.error
}

// opencode's client of chat completions joins all answers to one text: only the first one is kept.
function keepFirstAnswer(event) {
  if (!Array.isArray(event?.choices)) return false
  const kept = event.choices.filter((choice) => !choice?.index)
  if (kept.length === event.choices.length) return false
  event.choices = kept
  return true
}

// The clients drop the text with which a model refuses: it becomes the text of an answer that the content filter
// of the provider ended.
function showRefusal(end, event) {
  const choice = event?.choices?.[0]
  const said = choice?.delta?.refusal
  if (typeof said === "string" && said) {
    end.isRefused = true
    choice.delta.content = (choice.delta.content ?? "") + said
    delete choice.delta.refusal
    if (choice.finish_reason) choice.finish_reason = "content_filter"
    return true
  }
  if (event?.type === "response.refusal.delta") {
    end.isRefused = true
    event.type = "response.output_text.delta"
    return true
  }
  if (!end.isRefused) return false
  if (choice?.finish_reason) choice.finish_reason = "content_filter"
  else if (event?.type === "response.completed" && event.response) {
    event.type = "response.incomplete"
    event.response.incomplete_details = { reason: "content_filter" }
  } else return false
  return true
}

// Without a reason, the client reads the end of an incomplete answer as a normal one.
function nameIncomplete(event) {
  if (event?.type !== "response.incomplete" || !event.response || event.response.incomplete_details?.reason) return false
  event.response.incomplete_details = { reason: "incomplete" }
  return true
}

// Anthropic asks its clients to ignore events of other names; opencode's ends the answer with an error.
const OF_ANTHROPIC = /^(ping|error|message_(start|delta|stop)|content_block_(start|delta|stop))$/

// What the events so far say about the end of the answer.
function newEnd(type) {
  return { type, finish: null, done: false, blocked: null, usage: undefined, hasOutput: false }
}

function finishOf(event) {
  for (const part of Array.isArray(event) ? event : [event]) {
    const words = [
      part?.choices?.[0]?.finish_reason,
      part?.delta?.stop_reason,
      part?.candidates?.[0]?.finishReason,
      part?.stopReason,
      part?.type === "response.incomplete" ? (part.response?.incomplete_details?.reason ?? "incomplete") : undefined,
      part?.type === "response.completed" ? "completed" : undefined,
    ]
    const word = words.find((value) => typeof value === "string")
    if (word !== undefined) return word
  }
}

function readEnd(end, event) {
  end.isAnthropic ||= event?.type === "message_start" || event?.type === "message_delta"
  const word = finishOf(event)
  if (word !== undefined) end.finish = word || (end.finish ?? "")
  for (const part of Array.isArray(event) ? event : [event]) {
    end.blocked ??= part?.promptFeedback?.blockReason ?? null
    addUsage(end, part)
  }
}

// A later report has precedence; Anthropic reports input and output in two events.
function addUsage(end, part) {
  const usage = part?.usage ?? part?.usageMetadata ?? part?.x_groq?.usage ?? part?.message?.usage ?? part?.response?.usage
  if (typeof usage === "object" && usage !== null) end.usage = { ...end.usage, ...usage }
}

// Passes server-sent events on, line by line, changed by `change`; finds errors in them.
class EventLines {
  constructor(end, change) {
    this.end = end
    this.change = change
    this.rest = undefined
    this.name = ""
    this.collected = "" // data of an event in several lines, or raw JSON
  }

  // {text, error}: the text to pass on, and the first error in the chunk.
  read(chunk) {
    const isFirst = this.rest === undefined
    const given = (this.rest ?? "") + (isFirst && chunk.startsWith(BOM) ? chunk.slice(BOM.length) : chunk)
    const lines = given.split(AFTER_LINE)
    // A CR at the end of a chunk may be the first half of a line end.
    this.rest = lines.at(-1).endsWith("\n") ? "" : lines.pop()
    let text = ""
    for (const whole of lines) {
      const line = whole.replace(LINE_END, "")
      const found = this.readLine(line)
      if (found.error !== undefined) return { text, error: found.error }
      text += found.text + lineEnd(whole.slice(line.length))
    }
    return { text }
  }

  last() {
    const whole = this.rest ?? ""
    const line = whole.replace(LINE_END, "")
    const { text, error } = this.readLine(line)
    this.rest = ""
    return { text: error === undefined ? text + lineEnd(whole.slice(line.length)) : undefined, error: error ?? this.endEvent() }
  }

  readLine(line) {
    if (line.trim() === "") return { text: line, error: this.endEvent() }
    const field = line.match(FIELD)
    if (!field) return { text: line, error: line.startsWith(":") ? undefined : this.collect(line) }
    const value = line.slice(field[0].length)
    if (field[1] === "event") this.name = value.trim()
    if (field[1] === "error") return { text: line, error: utf8(value).trim() }
    return field[1] === "data" ? this.readData(line, field[0], value) : { text: line }
  }

  readData(line, prefix, value) {
    if (value.trim() === "[DONE]") this.end.done = true
    if (this.end.isAnthropic && this.name && !OF_ANTHROPIC.test(this.name)) return { text: ":" }
    if (this.collected) return { text: line, error: this.collect(value) }
    const isPlain = this.name !== "error" && !OF_INTEREST.test(value) && /[}\]]\s*$/.test(value)
    if (isPlain) this.end.hasOutput ||= OUTPUT.test(value)
    if (isPlain) return { text: line }
    const event = parsed(utf8(value))
    if (event === undefined) return { text: line, error: this.collect(value) }
    const error = this.name === "error" ? event : errorIn(event)
    if (error === undefined || event.choices) this.end.hasOutput ||= OUTPUT.test(value)
    if (error !== undefined) return { error: JSON.stringify(error) }
    readEnd(this.end, event)
    const changes = [dropEmptyError(event), keepFirstAnswer(event), showRefusal(this.end, event), nameIncomplete(event), this.change(event)]
    if (!changes.includes(true)) return { text: line }
    return { text: prefix + latin1(JSON.stringify(event)) }
  }

  // Adds to an event in several lines; returns its error once it is complete.
  collect(value) {
    const isStart = this.collected === "" && this.name !== "error" && !/^\s*[{[]/.test(value)
    if (isStart || this.collected.length + value.length > EVENT_LIMIT) return
    this.collected += value + "\n"
    if (!/[}\]]\s*$/.test(value)) return
    const event = parsed(utf8(this.collected))
    if (event === undefined) return
    this.collected = ""
    const error = this.name === "error" ? event : errorIn(event)
    if (error !== undefined) return JSON.stringify(error)
    readEnd(this.end, event)
  }

  // The end of an event; returns the error of one whose data are no JSON.
  endEvent() {
    // Raw JSON may contain blank lines; an event ends with one.
    const error = this.name === "error" && this.collected ? utf8(this.collected).trim() : undefined
    if (this.name) this.collected = ""
    this.name = ""
    return error
  }
}

// A frame with another payload: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html
function withPayload(frame, headersEnd, payload) {
  const changed = Buffer.concat([frame.subarray(0, headersEnd), Buffer.from(JSON.stringify(payload)), Buffer.alloc(4)])
  changed.writeUInt32BE(changed.length, 0)
  changed.writeUInt32BE(crc32(changed.subarray(0, 8)), 8)
  changed.writeUInt32BE(crc32(changed.subarray(0, -4)), changed.length - 4)
  return changed
}

// Frames of application/vnd.amazon.eventstream: lengths, headers, payload, checksums; changed by `change`.
class EventFrames {
  constructor(end, change) {
    this.end = end
    this.change = change
    this.rest = Buffer.alloc(0)
  }

  read(chunk) {
    this.rest = Buffer.concat([this.rest, Buffer.from(chunk, "latin1")])
    const passed = []
    while (this.rest.length >= 12 && this.rest.length >= this.rest.readUInt32BE(0)) {
      const size = Math.max(16, this.rest.readUInt32BE(0))
      const frame = this.rest.subarray(0, size)
      const { given = frame, error } = this.readFrame(frame)
      if (error) return { text: passed.join(""), error }
      passed.push(given.toString("latin1"))
      this.rest = this.rest.subarray(size)
    }
    return { text: passed.join("") }
  }

  last() {
    return { text: this.rest.toString("latin1") }
  }

  readFrame(frame) {
    const headersEnd = 12 + frame.readUInt32BE(4)
    const headers = frame.subarray(12, headersEnd).toString("latin1")
    const payload = parsed(frame.subarray(headersEnd, frame.length - 4).toString("utf8"))
    // A header is its name, the type 7 (string), two bytes of length, and its value.
    const type = headers.match(/:(?:exception-type|error-code)\x07..([\w.]+)/s)?.[1]
    const message = headers.match(/:error-message\x07..([^\x00-\x08]+)/s)?.[1]
    if (type) return { error: JSON.stringify({ type, ...(message && { message: utf8(message) }), ...payload }) }
    this.end.hasOutput ||= OUTPUT.test(frame.subarray(headersEnd, frame.length - 4).toString("latin1"))
    if (payload?.stopReason) this.end.finish = payload.stopReason
    const isChanged = payload?.usage !== undefined && this.change(payload)
    addUsage(this.end, payload)
    return isChanged ? { given: withPayload(frame, headersEnd, payload) } : {}
  }
}

export const isEventStream = (type) => type.includes("event-stream") || type.includes("eventstream")

// The response with its stream watched.
//   onError(body)   an error event: returns the error with which the stream ends
//   onBroken(error) the connection broke: returns the error with which the stream ends
//   onAlive()       the provider sent something
//   onClosed(usage) nothing more is read from the response, whose usage is undefined if there is none
//   change(event)   may change a parsed event; returns whether it did
// Returns {response, end}; `end` says what the stream says about its end.
export function watched(response, { onError, onBroken, onAlive, onClosed, change }) {
  const type = response.headers.get("content-type") ?? ""
  const end = newEnd(type)
  if (!response.body) {
    onClosed()
    return { response, end }
  }
  const events = type.includes("amazon") ? new EventFrames(end, change) : new EventLines(end, change)
  const reader = response.body.getReader()
  let isClosed = false
  let errorOfNextPull // an error drops what was passed before it and not read yet
  const pass = (controller, text) => text && controller.enqueue(new Uint8Array(Buffer.from(text, "latin1")))
  const fail = (controller, error) => {
    isClosed = true
    onClosed(end.usage)
    controller.error(error)
    reader.cancel().catch(() => {})
  }
  const close = (controller) => {
    isClosed = true
    onClosed(end.usage)
    controller.close()
  }
  const body = new ReadableStream({
    // Reads until there is something to pass on: a pull that passes nothing is not repeated.
    async pull(controller) {
      if (errorOfNextPull !== undefined) return fail(controller, onError(errorOfNextPull))
      while (!isClosed) {
        let part
        try {
          part = await reader.read()
        } catch (error) {
          if (isClosed) return
          // The answer is complete if it has a finish reason; only its usage may be missing. Anthropic's
          // client needs the events after it.
          if (!end.finish || end.isAnthropic) return fail(controller, onBroken(error))
          part = { done: true }
        }
        if (isClosed) return
        const { text, error } = part.done ? events.last() : events.read(Buffer.from(part.value).toString("latin1"))
        if (!part.done) onAlive()
        pass(controller, text)
        if (error !== undefined) {
          if (!text) return fail(controller, onError(error))
          errorOfNextPull = error
          return
        }
        if (part.done) return close(controller)
        if (text) return
      }
    },
    cancel(reason) {
      isClosed = true
      onClosed(end.usage)
      return reader.cancel(reason)
    },
  })
  return { end, response: new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers }) }
}
