// Corrects usage that opencode's clients cannot read or count twice.

const isWholeNumber = (value) => typeof value === "string" && /^\d+$/.test(value)

// Numbers in quotes as numbers, at every depth; returns whether there were any.
function unquote(holder) {
  let isChanged = false
  for (const [key, value] of Object.entries(holder)) {
    if (isWholeNumber(value)) {
      holder[key] = Number(value)
      isChanged = true
    } else if (typeof value === "object" && value !== null) {
      isChanged = unquote(value) || isChanged
    }
  }
  return isChanged
}

// OpenAI's client expects that the output has the reasoning in it, and the input the cached part. Some
// providers of that wire count one of them outside.
function include(usage) {
  const reasoning = usage.completion_tokens_details?.reasoning_tokens ?? 0
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0
  const { prompt_tokens: prompt = 0, completion_tokens: completion = 0, total_tokens: total } = usage
  const isOutside = reasoning > completion || (reasoning > 0 && total === prompt + completion + reasoning)
  if (isOutside) usage.completion_tokens = completion + reasoning
  if (cached > prompt) usage.prompt_tokens = prompt + cached
  return isOutside || cached > prompt
}

// Changes the usage in a parsed event; returns whether it did.
export function correctUsage(event, client) {
  let isChanged = false
  for (const holder of [event, event?.message, event?.response]) {
    for (const key of ["usage", "usageMetadata"]) {
      const usage = holder?.[key]
      if (usage === undefined || usage === null) continue
      if (typeof usage !== "object") {
        delete holder[key]
        isChanged = true
        continue
      }
      isChanged = unquote(usage) || isChanged
      if (client === "@ai-sdk/openai-compatible") isChanged = include(usage) || isChanged
    }
  }
  return isChanged
}
