// Reads the response streams of providers: server-sent events, and AWS event streams.
//
// Text is read as latin1, one character for each byte, so that JSON can be changed and written back
// without a change of any other byte.

import { Buffer } from "node:buffer"

const SSE_FIELD = /^(data|event|error):? ?/
// Only events with one of these keys are parsed. The text of an answer cannot contain them: the quotes
// inside a JSON string are escaped.
const OF_INTEREST =
  /"(?:error|usage|usageMetadata|finish_reason|stop_reason|finishReason|stopReason|blockReason)"|"response\.(?:failed|incomplete|completed)"|"message_(?:start|delta)"/

const utf8 = (latin1) => Buffer.from(latin1, "latin1").toString("utf8")

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
  if (Array.isArray(event)) return event.find((part) => errorIn(part))
  if (event.error || event.type === "error" || event.type === "response.failed") return event
  return event.choices?.some?.((choice) => choice?.error) ? event : undefined
}

// What the events so far say about the end of the answer.
function newEnd(type) {
  return { type, finish: null, done: false, blocked: null }
}

function finishOf(event) {
  const parts = Array.isArray(event) ? event : [event]
  for (const part of parts) {
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

const blockOf = (event) => (Array.isArray(event) ? event[0] : event)?.promptFeedback?.blockReason

function readEnd(end, event) {
  const word = finishOf(event)
  if (word !== undefined) end.finish = word || (end.finish ?? "")
  end.blocked ??= blockOf(event) ?? null
}

// A line at a time: passes lines on, changed by `change`, and reports errors.
class EventLines {
  constructor(end, change) {
    this.end = end
    this.change = change
    this.rest = ""
    this.name = ""
  }

  // {text, error, hasData}: the text to pass on, the first error in it, and whether it has more than comments.
  read(chunk) {
    const lines = (this.rest + chunk).split("\n")
    this.rest = lines.pop()
    let hasData = false
    const passed = []
    for (const line of lines) {
      const { text, error } = this.readLine(line)
      if (error !== undefined) return { error, hasData: true, text: passed.map((one) => one + "\n").join("") }
      passed.push(text)
      hasData ||= line.length > 1 && !line.startsWith(":")
    }
    return { text: passed.map((one) => one + "\n").join(""), hasData }
  }

  last() {
    const { text, error } = this.readLine(this.rest)
    this.rest = ""
    return { text, error }
  }

  readLine(line) {
    const field = line.match(SSE_FIELD)
    if (!field) {
      if (line.trim() === "") this.name = ""
      return line.startsWith("{") ? this.readData(line, "", line) : { text: line }
    }
    const value = line.slice(field[0].length)
    if (field[1] === "event") this.name = value.trim()
    if (field[1] === "error") return { error: utf8(value.trim()) }
    return field[1] === "data" ? this.readData(line, field[0], value) : { text: line }
  }

  readData(line, prefix, value) {
    if (value.trim() === "[DONE]") this.end.done = true
    const isError = this.name === "error"
    if (!isError && !OF_INTEREST.test(value)) return { text: line }
    const event = parsed(value)
    const error = isError ? (event ?? value.trim()) : errorIn(event)
    if (error !== undefined) return { error: utf8(typeof error === "string" ? error : JSON.stringify(error)) }
    if (event === undefined) return { text: line }
    readEnd(this.end, event)
    return { text: this.change(event) ? prefix + JSON.stringify(event) + (line.endsWith("\r") ? "\r" : "") : line }
  }
}

// Frames of application/vnd.amazon.eventstream: lengths, headers, payload, checksums. They pass unchanged.
class EventFrames {
  constructor(end) {
    this.end = end
    this.rest = Buffer.alloc(0)
  }

  read(chunk) {
    this.rest = Buffer.concat([this.rest, Buffer.from(chunk, "latin1")])
    while (this.rest.length >= 12 && this.rest.length >= this.rest.readUInt32BE(0)) {
      const size = Math.max(16, this.rest.readUInt32BE(0))
      const error = this.readFrame(this.rest.subarray(0, size))
      this.rest = this.rest.subarray(size)
      if (error) return { text: "", error, hasData: true }
    }
    return { text: chunk, hasData: true }
  }

  last() {
    return { text: "" }
  }

  readFrame(frame) {
    const headersEnd = 12 + frame.readUInt32BE(4)
    const headers = frame.subarray(12, headersEnd).toString("latin1")
    const payload = parsed(frame.subarray(headersEnd, frame.length - 4).toString("utf8"))
    // A header is its name, the type 7 (string), two bytes of length, and its value.
    const type = headers.match(/:(?:exception-type|error-code)\x07..([\w.]+)/s)?.[1]
    if (type) return JSON.stringify({ type, ...payload })
    if (payload?.stopReason) this.end.finish = payload.stopReason
  }
}

export const isEventStream = (type) => type.includes("event-stream") || type.includes("eventstream")

// The response with its stream watched.
//   onError(body)   an error event: returns the error with which the stream ends
//   onBroken(error) the connection broke: returns the error with which the stream ends
//   onAlive()       the provider sent only a comment, to keep the connection open
//   change(event)   may change a parsed event; returns whether it did
// Returns {response, end}; `end` says what the stream says about its end.
export function watched(response, { onError, onBroken, onAlive, change }) {
  const type = response.headers.get("content-type") ?? ""
  const end = newEnd(type)
  if (!response.body) return { response, end }
  const events = type.includes("amazon") ? new EventFrames(end) : new EventLines(end, change)
  const reader = response.body.getReader()
  let isClosed = false
  let errorOfNextPull // an error drops what was passed before it and not read yet
  const pass = (controller, text) => text && controller.enqueue(new Uint8Array(Buffer.from(text, "latin1")))
  const fail = (controller, error) => {
    isClosed = true
    controller.error(error)
    reader.cancel().catch(() => {})
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
          if (!isClosed) fail(controller, onBroken(error))
          return
        }
        if (isClosed) return
        const { text, error, hasData } = part.done ? events.last() : events.read(Buffer.from(part.value).toString("latin1"))
        if (!part.done && !hasData) onAlive()
        pass(controller, text)
        if (error !== undefined) {
          if (!text) return fail(controller, onError(error))
          errorOfNextPull = error
          return
        }
        if (part.done) {
          isClosed = true
          return controller.close()
        }
        if (text) return
      }
    },
    cancel(reason) {
      isClosed = true
      return reader.cancel(reason)
    },
  })
  return { end, response: new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers }) }
}
