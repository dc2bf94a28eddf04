// Answers that came as one JSON document although a stream was asked for, written as a stream.

const lines = (events) => events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("")
const named = (events) => events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("")

// OpenAI's chat completions.
function chat(answer) {
  const { choices, usage, ...head } = answer
  const chunk = { ...head, object: "chat.completion.chunk" }
  const parts = choices.map(({ message, ...choice }, index) => {
    const calls = message?.tool_calls?.map((call, number) => ({ index: number, ...call }))
    return { index, ...choice, delta: { ...message, ...(calls && { tool_calls: calls }) }, finish_reason: null }
  })
  const ends = choices.map((choice, index) => ({ index, delta: {}, finish_reason: choice.finish_reason ?? null }))
  return lines([{ ...chunk, choices: parts }, { ...chunk, choices: ends, usage }]) + "data: [DONE]\n\n"
}

// Anthropic's messages.
function anthropic(answer) {
  const { content, stop_reason, stop_sequence, ...message } = answer
  const blocks = content.flatMap((block, index) => {
    const empty = { text: { text: "" }, thinking: { thinking: "" }, tool_use: { input: {} } }[block.type] ?? {}
    const delta = {
      text: { type: "text_delta", text: block.text },
      thinking: { type: "thinking_delta", thinking: block.thinking },
      tool_use: { type: "input_json_delta", partial_json: JSON.stringify(block.input ?? {}) },
    }[block.type]
    const start = { type: "content_block_start", index, content_block: { ...block, ...empty } }
    const signed = block.signature ? [{ type: "signature_delta", signature: block.signature }] : []
    const middle = [...(delta ? [delta] : []), ...signed].map((one) => ({ type: "content_block_delta", index, delta: one }))
    return [start, ...middle, { type: "content_block_stop", index }]
  })
  const start = { type: "message_start", message: { ...message, content: [], stop_reason: null, stop_sequence: null } }
  const end = { type: "message_delta", delta: { stop_reason, stop_sequence }, usage: answer.usage }
  return named([start, ...blocks, end, { type: "message_stop" }])
}

// OpenAI's responses. The client reads the text from the events and the rest from the last one.
function responses(answer) {
  const items = answer.output.flatMap((item, index) => {
    const place = { output_index: index, item_id: item.id }
    const texts = (item.content ?? []).filter((part) => ["output_text", "refusal"].includes(part.type))
    const deltas = texts.map((part, number) => ({
      type: `response.${part.type}.delta`, ...place, content_index: number, delta: part.text ?? part.refusal, logprobs: [],
    }))
    const added = { type: "response.output_item.added", output_index: index, item: { ...item, content: [] } }
    return [added, ...deltas, { type: "response.output_item.done", output_index: index, item }]
  })
  const created = { type: "response.created", response: { ...answer, output: [] } }
  const kind = answer.status === "incomplete" ? "response.incomplete" : "response.completed"
  return named([created, ...items, { type: kind, response: answer }])
}

// The stream for a whole answer; undefined if it is not one that is known.
export function asStream(answer) {
  if (answer?.error || answer?.status === "failed") return undefined
  if (answer?.choices?.[0]?.message) return chat(answer)
  if (answer?.type === "message" && Array.isArray(answer.content)) return anthropic(answer)
  if (answer?.object === "response" && Array.isArray(answer.output)) return responses(answer)
  // Gemini sends a list of the chunks that it would have streamed.
  const chunks = Array.isArray(answer) ? answer : [answer]
  const isGemini = chunks.some((chunk) => chunk?.candidates || chunk?.promptFeedback)
  return isGemini && chunks.every((chunk) => chunk && !chunk.error) ? lines(chunks) : undefined
}
