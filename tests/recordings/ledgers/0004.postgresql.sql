CREATE TABLE public.attempts (
    attempt_id text NOT NULL,
    run_id text NOT NULL,
    row_id text NOT NULL,
    row_key text NOT NULL,
    attempt integer NOT NULL,
    fence integer NOT NULL,
    owner text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    status text NOT NULL,
    error_type text,
    error_message text,
    exit_code integer,
    reset_time timestamp with time zone,
    retry_after_s double precision,
    session_id text,
    node_id text,
    host text,
    backend text,
    data_dir text,
    usage_known boolean NOT NULL,
    gate_id text,
    reserved_pico bigint DEFAULT '0'::bigint NOT NULL,
    settled_pico bigint DEFAULT '0'::bigint NOT NULL
);
CREATE TABLE public.rows (
    run_id text NOT NULL,
    row_id text NOT NULL,
    "position" integer NOT NULL,
    row_key text NOT NULL,
    prompt text,
    labels json,
    status text DEFAULT 'open'::text NOT NULL,
    response text,
    structured json,
    error_type text,
    error_message text,
    waits_until timestamp with time zone,
    finish_reason text,
    session_id text,
    attempts integer DEFAULT 0 NOT NULL,
    turns integer,
    model_ref text,
    input_tokens bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    output_tokens bigint,
    reasoning_tokens bigint,
    cost_pico bigint,
    cost_source text,
    reused boolean NOT NULL,
    source_run_id text,
    source_row_id text,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    duration_s double precision
);
CREATE TABLE public.runs (
    run_id text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    status text NOT NULL,
    parameters json,
    model_ref text,
    backend text,
    opencode_version text,
    deployment text,
    flow_run_ids json,
    input_fingerprint text,
    row_count integer,
    refresh boolean NOT NULL,
    waits_until timestamp with time zone,
    pause_reason text,
    max_cost_pico bigint,
    refused_pico bigint,
    reserved_pico bigint DEFAULT '0'::bigint NOT NULL,
    spent_pico bigint DEFAULT '0'::bigint NOT NULL,
    origin text DEFAULT 'annotate'::text NOT NULL,
    purged_at timestamp with time zone
);
CREATE TABLE public.usage (
    session_id text NOT NULL,
    step_id text NOT NULL,
    attempt_id text NOT NULL,
    run_id text NOT NULL,
    row_id text NOT NULL,
    row_key text NOT NULL,
    message_id text,
    model_ref text,
    agent text,
    input_tokens bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    output_tokens bigint,
    reasoning_tokens bigint,
    cost_pico bigint,
    cost_source text NOT NULL,
    finish_reason text,
    ended_at timestamp with time zone,
    cost_reported_pico bigint,
    cost_computed_pico bigint,
    price_source text
);
CREATE VIEW public.cost_by_day AS
 SELECT day,
    count(DISTINCT (((run || '/'::text) || row_id) COLLATE "C")) AS rows,
    count(step_id) AS steps,
        CASE
            WHEN (count(input_tokens) = count(step_id)) THEN (COALESCE(sum(input_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS input_tokens,
        CASE
            WHEN (count(cache_read_tokens) = count(step_id)) THEN (COALESCE(sum(cache_read_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_read_tokens,
        CASE
            WHEN (count(cache_write_tokens) = count(step_id)) THEN (COALESCE(sum(cache_write_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_write_tokens,
        CASE
            WHEN (count(output_tokens) = count(step_id)) THEN (COALESCE(sum(output_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS output_tokens,
        CASE
            WHEN (count(reasoning_tokens) = count(step_id)) THEN (COALESCE(sum(reasoning_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS reasoning_tokens,
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cost_pico,
    (COALESCE(sum(cost_pico), (0)::numeric))::bigint AS known_cost_pico,
        CASE
            WHEN (count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END AS failed_cost_pico,
    (COALESCE(sum(
        CASE
            WHEN (attempt_status <> 'completed'::text) THEN cost_pico
            ELSE (0)::bigint
        END), (0)::numeric))::bigint AS known_failed_cost_pico,
    ((
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END)::numeric / 1000000000000.0) AS cost_usd,
    (((COALESCE(sum(cost_pico), (0)::numeric))::bigint)::numeric / 1000000000000.0) AS known_cost_usd,
    ((
        CASE
            WHEN (count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END)::numeric / 1000000000000.0) AS failed_cost_usd
   FROM ( SELECT ((COALESCE(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at) AT TIME ZONE 'UTC'::text))::date AS day,
            COALESCE(usage.model_ref, rows.model_ref, runs.model_ref) AS model,
            runs.deployment,
            runs.run_id AS run,
            runs.origin,
            rows.row_id,
            rows.status AS row_status,
            rows.reused,
            attempts.attempt_id,
            attempts.status AS attempt_status,
            attempts.error_type,
            usage.session_id,
            usage.step_id,
            usage.agent,
            usage.input_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.cost_pico,
            usage.cost_source,
            usage.cost_reported_pico,
            usage.cost_computed_pico,
            usage.price_source,
            usage.ended_at,
            rows.labels
           FROM (((public.rows
             JOIN public.runs ON ((runs.run_id = rows.run_id)))
             LEFT JOIN public.attempts ON (((attempts.run_id = rows.run_id) AND (attempts.row_id = rows.row_id))))
             LEFT JOIN public.usage ON (((usage.run_id = attempts.run_id) AND (usage.row_id = attempts.row_id) AND (usage.attempt_id = attempts.attempt_id))))) items
  GROUP BY day;
CREATE VIEW public.cost_by_deployment AS
 SELECT deployment,
    count(DISTINCT (((run || '/'::text) || row_id) COLLATE "C")) AS rows,
    count(step_id) AS steps,
        CASE
            WHEN (count(input_tokens) = count(step_id)) THEN (COALESCE(sum(input_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS input_tokens,
        CASE
            WHEN (count(cache_read_tokens) = count(step_id)) THEN (COALESCE(sum(cache_read_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_read_tokens,
        CASE
            WHEN (count(cache_write_tokens) = count(step_id)) THEN (COALESCE(sum(cache_write_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_write_tokens,
        CASE
            WHEN (count(output_tokens) = count(step_id)) THEN (COALESCE(sum(output_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS output_tokens,
        CASE
            WHEN (count(reasoning_tokens) = count(step_id)) THEN (COALESCE(sum(reasoning_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS reasoning_tokens,
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cost_pico,
    (COALESCE(sum(cost_pico), (0)::numeric))::bigint AS known_cost_pico,
        CASE
            WHEN (count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END AS failed_cost_pico,
    (COALESCE(sum(
        CASE
            WHEN (attempt_status <> 'completed'::text) THEN cost_pico
            ELSE (0)::bigint
        END), (0)::numeric))::bigint AS known_failed_cost_pico,
    ((
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END)::numeric / 1000000000000.0) AS cost_usd,
    (((COALESCE(sum(cost_pico), (0)::numeric))::bigint)::numeric / 1000000000000.0) AS known_cost_usd,
    ((
        CASE
            WHEN (count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END)::numeric / 1000000000000.0) AS failed_cost_usd
   FROM ( SELECT ((COALESCE(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at) AT TIME ZONE 'UTC'::text))::date AS day,
            COALESCE(usage.model_ref, rows.model_ref, runs.model_ref) AS model,
            runs.deployment,
            runs.run_id AS run,
            runs.origin,
            rows.row_id,
            rows.status AS row_status,
            rows.reused,
            attempts.attempt_id,
            attempts.status AS attempt_status,
            attempts.error_type,
            usage.session_id,
            usage.step_id,
            usage.agent,
            usage.input_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.cost_pico,
            usage.cost_source,
            usage.cost_reported_pico,
            usage.cost_computed_pico,
            usage.price_source,
            usage.ended_at,
            rows.labels
           FROM (((public.rows
             JOIN public.runs ON ((runs.run_id = rows.run_id)))
             LEFT JOIN public.attempts ON (((attempts.run_id = rows.run_id) AND (attempts.row_id = rows.row_id))))
             LEFT JOIN public.usage ON (((usage.run_id = attempts.run_id) AND (usage.row_id = attempts.row_id) AND (usage.attempt_id = attempts.attempt_id))))) items
  GROUP BY deployment;
CREATE VIEW public.cost_by_label AS
 SELECT pairs.key AS label,
    pairs.value AS label_value,
    count(DISTINCT (((items.run || '/'::text) || items.row_id) COLLATE "C")) AS rows,
    count(items.step_id) AS steps,
        CASE
            WHEN (count(items.input_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.input_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS input_tokens,
        CASE
            WHEN (count(items.cache_read_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.cache_read_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_read_tokens,
        CASE
            WHEN (count(items.cache_write_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.cache_write_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_write_tokens,
        CASE
            WHEN (count(items.output_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.output_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS output_tokens,
        CASE
            WHEN (count(items.reasoning_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.reasoning_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS reasoning_tokens,
        CASE
            WHEN (count(items.cost_pico) = count(items.step_id)) THEN (COALESCE(sum(items.cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cost_pico,
    (COALESCE(sum(items.cost_pico), (0)::numeric))::bigint AS known_cost_pico,
        CASE
            WHEN (count(
            CASE
                WHEN (items.attempt_status <> 'completed'::text) THEN items.step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END AS failed_cost_pico,
    (COALESCE(sum(
        CASE
            WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
            ELSE (0)::bigint
        END), (0)::numeric))::bigint AS known_failed_cost_pico,
    ((
        CASE
            WHEN (count(items.cost_pico) = count(items.step_id)) THEN (COALESCE(sum(items.cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END)::numeric / 1000000000000.0) AS cost_usd,
    (((COALESCE(sum(items.cost_pico), (0)::numeric))::bigint)::numeric / 1000000000000.0) AS known_cost_usd,
    ((
        CASE
            WHEN (count(
            CASE
                WHEN (items.attempt_status <> 'completed'::text) THEN items.step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END)::numeric / 1000000000000.0) AS failed_cost_usd
   FROM ( SELECT ((COALESCE(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at) AT TIME ZONE 'UTC'::text))::date AS day,
            COALESCE(usage.model_ref, rows.model_ref, runs.model_ref) AS model,
            runs.deployment,
            runs.run_id AS run,
            runs.origin,
            rows.row_id,
            rows.status AS row_status,
            rows.reused,
            attempts.attempt_id,
            attempts.status AS attempt_status,
            attempts.error_type,
            usage.session_id,
            usage.step_id,
            usage.agent,
            usage.input_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.cost_pico,
            usage.cost_source,
            usage.cost_reported_pico,
            usage.cost_computed_pico,
            usage.price_source,
            usage.ended_at,
            rows.labels
           FROM (((public.rows
             JOIN public.runs ON ((runs.run_id = rows.run_id)))
             LEFT JOIN public.attempts ON (((attempts.run_id = rows.run_id) AND (attempts.row_id = rows.row_id))))
             LEFT JOIN public.usage ON (((usage.run_id = attempts.run_id) AND (usage.row_id = attempts.row_id) AND (usage.attempt_id = attempts.attempt_id))))) items,
    LATERAL json_each_text(items.labels) pairs(key, value)
  GROUP BY pairs.key, pairs.value;
CREATE VIEW public.cost_by_model AS
 SELECT model,
    count(DISTINCT (((run || '/'::text) || row_id) COLLATE "C")) AS rows,
    count(step_id) AS steps,
        CASE
            WHEN (count(input_tokens) = count(step_id)) THEN (COALESCE(sum(input_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS input_tokens,
        CASE
            WHEN (count(cache_read_tokens) = count(step_id)) THEN (COALESCE(sum(cache_read_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_read_tokens,
        CASE
            WHEN (count(cache_write_tokens) = count(step_id)) THEN (COALESCE(sum(cache_write_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cache_write_tokens,
        CASE
            WHEN (count(output_tokens) = count(step_id)) THEN (COALESCE(sum(output_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS output_tokens,
        CASE
            WHEN (count(reasoning_tokens) = count(step_id)) THEN (COALESCE(sum(reasoning_tokens), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS reasoning_tokens,
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cost_pico,
    (COALESCE(sum(cost_pico), (0)::numeric))::bigint AS known_cost_pico,
        CASE
            WHEN (count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END AS failed_cost_pico,
    (COALESCE(sum(
        CASE
            WHEN (attempt_status <> 'completed'::text) THEN cost_pico
            ELSE (0)::bigint
        END), (0)::numeric))::bigint AS known_failed_cost_pico,
    ((
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END)::numeric / 1000000000000.0) AS cost_usd,
    (((COALESCE(sum(cost_pico), (0)::numeric))::bigint)::numeric / 1000000000000.0) AS known_cost_usd,
    ((
        CASE
            WHEN (count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN step_id
                ELSE NULL::text
            END) <> count(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE NULL::bigint
            END)) THEN NULL::bigint
            ELSE (COALESCE(sum(
            CASE
                WHEN (attempt_status <> 'completed'::text) THEN cost_pico
                ELSE (0)::bigint
            END), (0)::numeric))::bigint
        END)::numeric / 1000000000000.0) AS failed_cost_usd
   FROM ( SELECT ((COALESCE(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at) AT TIME ZONE 'UTC'::text))::date AS day,
            COALESCE(usage.model_ref, rows.model_ref, runs.model_ref) AS model,
            runs.deployment,
            runs.run_id AS run,
            runs.origin,
            rows.row_id,
            rows.status AS row_status,
            rows.reused,
            attempts.attempt_id,
            attempts.status AS attempt_status,
            attempts.error_type,
            usage.session_id,
            usage.step_id,
            usage.agent,
            usage.input_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.cost_pico,
            usage.cost_source,
            usage.cost_reported_pico,
            usage.cost_computed_pico,
            usage.price_source,
            usage.ended_at,
            rows.labels
           FROM (((public.rows
             JOIN public.runs ON ((runs.run_id = rows.run_id)))
             LEFT JOIN public.attempts ON (((attempts.run_id = rows.run_id) AND (attempts.row_id = rows.row_id))))
             LEFT JOIN public.usage ON (((usage.run_id = attempts.run_id) AND (usage.row_id = attempts.row_id) AND (usage.attempt_id = attempts.attempt_id))))) items
  GROUP BY model;
CREATE VIEW public.cost_by_run AS
 SELECT runs.created_at,
    runs.ended_at,
    runs.status,
    runs.origin,
    runs.deployment,
    runs.model_ref AS model,
    sums.run,
    sums.rows,
    sums.steps,
    sums.input_tokens,
    sums.cache_read_tokens,
    sums.cache_write_tokens,
    sums.output_tokens,
    sums.reasoning_tokens,
    sums.cost_pico,
    sums.known_cost_pico,
    sums.failed_cost_pico,
    sums.known_failed_cost_pico,
    sums.cost_usd,
    sums.known_cost_usd,
    sums.failed_cost_usd
   FROM (public.runs
     JOIN ( SELECT items.run,
            count(DISTINCT (((items.run || '/'::text) || items.row_id) COLLATE "C")) AS rows,
            count(items.step_id) AS steps,
                CASE
                    WHEN (count(items.input_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.input_tokens), (0)::numeric))::bigint
                    ELSE NULL::bigint
                END AS input_tokens,
                CASE
                    WHEN (count(items.cache_read_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.cache_read_tokens), (0)::numeric))::bigint
                    ELSE NULL::bigint
                END AS cache_read_tokens,
                CASE
                    WHEN (count(items.cache_write_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.cache_write_tokens), (0)::numeric))::bigint
                    ELSE NULL::bigint
                END AS cache_write_tokens,
                CASE
                    WHEN (count(items.output_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.output_tokens), (0)::numeric))::bigint
                    ELSE NULL::bigint
                END AS output_tokens,
                CASE
                    WHEN (count(items.reasoning_tokens) = count(items.step_id)) THEN (COALESCE(sum(items.reasoning_tokens), (0)::numeric))::bigint
                    ELSE NULL::bigint
                END AS reasoning_tokens,
                CASE
                    WHEN (count(items.cost_pico) = count(items.step_id)) THEN (COALESCE(sum(items.cost_pico), (0)::numeric))::bigint
                    ELSE NULL::bigint
                END AS cost_pico,
            (COALESCE(sum(items.cost_pico), (0)::numeric))::bigint AS known_cost_pico,
                CASE
                    WHEN (count(
                    CASE
                        WHEN (items.attempt_status <> 'completed'::text) THEN items.step_id
                        ELSE NULL::text
                    END) <> count(
                    CASE
                        WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                        ELSE NULL::bigint
                    END)) THEN NULL::bigint
                    ELSE (COALESCE(sum(
                    CASE
                        WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                        ELSE (0)::bigint
                    END), (0)::numeric))::bigint
                END AS failed_cost_pico,
            (COALESCE(sum(
                CASE
                    WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                    ELSE (0)::bigint
                END), (0)::numeric))::bigint AS known_failed_cost_pico,
            ((
                CASE
                    WHEN (count(items.cost_pico) = count(items.step_id)) THEN (COALESCE(sum(items.cost_pico), (0)::numeric))::bigint
                    ELSE NULL::bigint
                END)::numeric / 1000000000000.0) AS cost_usd,
            (((COALESCE(sum(items.cost_pico), (0)::numeric))::bigint)::numeric / 1000000000000.0) AS known_cost_usd,
            ((
                CASE
                    WHEN (count(
                    CASE
                        WHEN (items.attempt_status <> 'completed'::text) THEN items.step_id
                        ELSE NULL::text
                    END) <> count(
                    CASE
                        WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                        ELSE NULL::bigint
                    END)) THEN NULL::bigint
                    ELSE (COALESCE(sum(
                    CASE
                        WHEN (items.attempt_status <> 'completed'::text) THEN items.cost_pico
                        ELSE (0)::bigint
                    END), (0)::numeric))::bigint
                END)::numeric / 1000000000000.0) AS failed_cost_usd
           FROM ( SELECT ((COALESCE(usage.ended_at, attempts.started_at, rows.completed_at, runs_1.created_at) AT TIME ZONE 'UTC'::text))::date AS day,
                    COALESCE(usage.model_ref, rows.model_ref, runs_1.model_ref) AS model,
                    runs_1.deployment,
                    runs_1.run_id AS run,
                    runs_1.origin,
                    rows.row_id,
                    rows.status AS row_status,
                    rows.reused,
                    attempts.attempt_id,
                    attempts.status AS attempt_status,
                    attempts.error_type,
                    usage.session_id,
                    usage.step_id,
                    usage.agent,
                    usage.input_tokens,
                    usage.cache_read_tokens,
                    usage.cache_write_tokens,
                    usage.output_tokens,
                    usage.reasoning_tokens,
                    usage.cost_pico,
                    usage.cost_source,
                    usage.cost_reported_pico,
                    usage.cost_computed_pico,
                    usage.price_source,
                    usage.ended_at,
                    rows.labels
                   FROM (((public.rows
                     JOIN public.runs runs_1 ON ((runs_1.run_id = rows.run_id)))
                     LEFT JOIN public.attempts ON (((attempts.run_id = rows.run_id) AND (attempts.row_id = rows.row_id))))
                     LEFT JOIN public.usage ON (((usage.run_id = attempts.run_id) AND (usage.row_id = attempts.row_id) AND (usage.attempt_id = attempts.attempt_id))))) items
          GROUP BY items.run) sums ON ((sums.run = runs.run_id)));
CREATE VIEW public.cost_items AS
 SELECT ((COALESCE(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at) AT TIME ZONE 'UTC'::text))::date AS day,
    COALESCE(usage.model_ref, rows.model_ref, runs.model_ref) AS model,
    runs.deployment,
    runs.run_id AS run,
    runs.origin,
    rows.row_id,
    rows.status AS row_status,
    rows.reused,
    attempts.attempt_id,
    attempts.status AS attempt_status,
    attempts.error_type,
    usage.session_id,
    usage.step_id,
    usage.agent,
    usage.input_tokens,
    usage.cache_read_tokens,
    usage.cache_write_tokens,
    usage.output_tokens,
    usage.reasoning_tokens,
    usage.cost_pico,
    usage.cost_source,
    usage.cost_reported_pico,
    usage.cost_computed_pico,
    usage.price_source,
    usage.ended_at,
    rows.labels
   FROM (((public.rows
     JOIN public.runs ON ((runs.run_id = rows.run_id)))
     LEFT JOIN public.attempts ON (((attempts.run_id = rows.run_id) AND (attempts.row_id = rows.row_id))))
     LEFT JOIN public.usage ON (((usage.run_id = attempts.run_id) AND (usage.row_id = attempts.row_id) AND (usage.attempt_id = attempts.attempt_id))));
CREATE VIEW public.failures_by_type AS
 SELECT day,
    model,
    error_type,
    count(DISTINCT attempt_id) AS attempts,
    count(DISTINCT (((run || '/'::text) || row_id) COLLATE "C")) AS rows,
    count(DISTINCT
        CASE
            WHEN (row_status = 'failed'::text) THEN (((run || '/'::text) || row_id) COLLATE "C")
            ELSE NULL::text
        END) AS failed_rows,
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END AS cost_pico,
    (COALESCE(sum(cost_pico), (0)::numeric))::bigint AS known_cost_pico,
    ((
        CASE
            WHEN (count(cost_pico) = count(step_id)) THEN (COALESCE(sum(cost_pico), (0)::numeric))::bigint
            ELSE NULL::bigint
        END)::numeric / 1000000000000.0) AS cost_usd,
    (((COALESCE(sum(cost_pico), (0)::numeric))::bigint)::numeric / 1000000000000.0) AS known_cost_usd
   FROM ( SELECT ((COALESCE(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at) AT TIME ZONE 'UTC'::text))::date AS day,
            COALESCE(usage.model_ref, rows.model_ref, runs.model_ref) AS model,
            runs.deployment,
            runs.run_id AS run,
            runs.origin,
            rows.row_id,
            rows.status AS row_status,
            rows.reused,
            attempts.attempt_id,
            attempts.status AS attempt_status,
            attempts.error_type,
            usage.session_id,
            usage.step_id,
            usage.agent,
            usage.input_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.cost_pico,
            usage.cost_source,
            usage.cost_reported_pico,
            usage.cost_computed_pico,
            usage.price_source,
            usage.ended_at,
            rows.labels
           FROM (((public.rows
             JOIN public.runs ON ((runs.run_id = rows.run_id)))
             LEFT JOIN public.attempts ON (((attempts.run_id = rows.run_id) AND (attempts.row_id = rows.row_id))))
             LEFT JOIN public.usage ON (((usage.run_id = attempts.run_id) AND (usage.row_id = attempts.row_id) AND (usage.attempt_id = attempts.attempt_id))))
          WHERE (attempts.error_type IS NOT NULL)) items
  GROUP BY day, model, error_type;
CREATE TABLE public.flow_runs (
    flow_run_id text NOT NULL,
    run_id text NOT NULL
);
CREATE TABLE public.gates (
    gate_id text NOT NULL,
    model_ref text NOT NULL,
    is_open boolean NOT NULL,
    error_type text,
    error_message text,
    reset_time timestamp with time zone,
    changed_at timestamp with time zone NOT NULL,
    failures integer NOT NULL,
    closures integer NOT NULL,
    probe_owner text,
    probe_until timestamp with time zone,
    suspect_run_id text,
    suspect_row_id text,
    suspect_since timestamp with time zone
);
CREATE TABLE public.inner_retries (
    session_id text NOT NULL,
    number integer NOT NULL,
    attempt_id text NOT NULL,
    message text,
    next_at timestamp with time zone
);
CREATE TABLE public.leases (
    row_key text NOT NULL,
    owner text,
    fence integer NOT NULL,
    until timestamp with time zone NOT NULL,
    heartbeat timestamp with time zone NOT NULL
);
CREATE TABLE public.opencode_tasks_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.sessions (
    session_id text NOT NULL,
    parent_id text,
    attempt_id text NOT NULL,
    run_id text NOT NULL,
    row_id text NOT NULL,
    messages bytea,
    turns integer
);
CREATE VIEW public.unreported_attempts AS
 SELECT ((started_at AT TIME ZONE 'UTC'::text))::date AS day,
    run_id AS run,
    row_id,
    attempt_id,
    attempt,
    started_at,
    status,
    error_type,
    reserved_pico AS at_most_pico,
    ((reserved_pico)::numeric / 1000000000000.0) AS at_most_usd
   FROM public.attempts
  WHERE (usage_known IS FALSE);
INSERT INTO public.attempts VALUES ('done-a-1', 'done', 'a', 'key-a', 1, 1, 'machine/1/2/batch', '2026-03-01 12:01:00+00', '2026-03-01 12:02:00+00', 'completed', NULL, NULL, 0, NULL, NULL, 'ses_a_1', 'node', 'machine', 'server', NULL, true, 'p/m#0', 0, 7);
INSERT INTO public.attempts VALUES ('done-b-1', 'done', 'b', 'key-b', 1, 1, 'machine/1/2/batch', '2026-03-01 12:01:00+00', '2026-03-01 12:02:00+00', 'failed', 'server_error', 'down', NULL, NULL, 2.5, NULL, 'node', 'machine', 'server', NULL, true, 'p/m#0', 0, 5);
INSERT INTO public.attempts VALUES ('done-b-2', 'done', 'b', 'key-b', 2, 2, 'machine/1/2/batch', '2026-03-01 12:02:00+00', '2026-03-01 12:03:00+00', 'failed', 'invalid_request', 'too long', NULL, NULL, NULL, NULL, 'node', 'machine', 'server', NULL, true, 'p/m#0', 0, 7);
INSERT INTO public.attempts VALUES ('open-c-1', 'open', 'c', 'key-c', 1, 1, 'machine/1/2/batch', '2026-03-01 12:01:00+00', NULL, 'open', NULL, NULL, NULL, NULL, NULL, NULL, 'node', 'machine', 'server', NULL, false, 'p/m#0', 500, 0);
INSERT INTO public.flow_runs VALUES ('flow-1', 'done');
INSERT INTO public.flow_runs VALUES ('flow-2', 'done');
INSERT INTO public.gates VALUES ('p/m#0', 'p/m', false, 'rate_limit', 'slow down', '2026-03-01 12:20:00+00', '2026-03-01 12:11:00+00', 0, 1, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.inner_retries VALUES ('ses_b_1', 1, 'done-b-1', 'slow', '2026-03-01 12:01:00+00');
INSERT INTO public.leases VALUES ('key-a', NULL, 1, '2026-03-01 12:02:00+00', '2026-03-01 12:01:00+00');
INSERT INTO public.leases VALUES ('key-c', 'machine/1/2/batch', 3, '2026-03-01 12:12:00+00', '2026-03-01 12:11:00+00');
INSERT INTO public.opencode_tasks_version VALUES ('0004');
INSERT INTO public.rows VALUES ('done', 'a', 0, 'key-a', 'prompt a', '{"team": "support"}', 'completed', 'yes', '{"label": "positive"}', NULL, NULL, NULL, 'stop', 'ses_a_1', 1, 1, 'p/m', 10, 10, 10, 10, 10, 7, 'reported', false, NULL, NULL, '2026-03-01 12:01:00+00', '2026-03-01 12:02:00+00', 60);
INSERT INTO public.rows VALUES ('done', 'b', 1, 'key-b', 'prompt b', '{"team": "support"}', 'failed', NULL, NULL, 'invalid_request', 'too long', NULL, NULL, NULL, 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 12, NULL, false, NULL, NULL, '2026-03-01 12:01:00+00', '2026-03-01 12:03:00+00', 120);
INSERT INTO public.rows VALUES ('open', 'a', 0, 'key-a', 'prompt a', '{"team": "support"}', 'completed', 'yes', '{"label": "positive"}', NULL, NULL, NULL, 'stop', 'ses_a_1', 0, 1, 'p/m', 10, 10, 10, 10, 10, 7, 'reported', true, 'done', 'a', NULL, '2026-03-01 12:10:00+00', 0);
INSERT INTO public.rows VALUES ('open', 'c', 1, 'key-c', 'prompt c', '{"team": "support"}', 'open', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.runs VALUES ('done', '2026-03-01 12:00:00+00', '2026-03-01 12:09:00+00', 'completed', '{"command": {"output": "out.csv"}}', 'p/m', 'server', '1.18.33', NULL, '["flow-1", "flow-2"]', 'f', 2, false, NULL, NULL, NULL, NULL, 0, 19, 'annotate', NULL);
INSERT INTO public.runs VALUES ('open', '2026-03-01 12:10:00+00', NULL, 'interrupted', '{"command": {"output": "out.csv"}}', 'p/m', 'server', '1.18.33', NULL, '[]', 'f', 2, false, NULL, NULL, 1000000000000, NULL, 500, 0, 'annotate', NULL);
INSERT INTO public.sessions VALUES ('ses_a_1', NULL, 'done-a-1', 'done', 'a', '\x789c8bae56cacc4bcb57b252a8562acacf49053294128b8b338b4b12f34a946a7514940a128b4a8a81c2d1d54a25a91525200595a9c54ab5b1b5b1006c03141d', 1);
INSERT INTO public.sessions VALUES ('ses_b_1', NULL, 'done-b-1', 'done', 'b', '\x789c8bae56cacc4bcb57b252a8562acacf49053294128b8b338b4b12f34a946a7514940a128b4a8a81c2d1d54a25a91525200595a9c54ab5b1b5b1006c03141d', 1);
INSERT INTO public.sessions VALUES ('ses_b_2', NULL, 'done-b-2', 'done', 'b', '\x789c8bae56cacc4bcb57b252a8562acacf49053294128b8b338b4b12f34a946a7514940a128b4a8a81c2d1d54a25a91525200595a9c54ab5b1b5b1006c03141d', 1);
INSERT INTO public.usage VALUES ('ses_a_1', 'prt_1', 'done-a-1', 'done', 'a', 'key-a', 'msg', 'p/m', 'opencode-tasks', 10, 10, 10, 10, 10, 7, 'reported', 'stop', '2026-03-01 12:01:30+00', 7, NULL, NULL);
INSERT INTO public.usage VALUES ('ses_b_1', 'prt_1', 'done-b-1', 'done', 'b', 'key-b', 'msg', 'p/m', 'opencode-tasks', 10, 10, 10, 10, 10, 5, 'reported', 'stop', '2026-03-01 12:01:30+00', 5, NULL, NULL);
INSERT INTO public.usage VALUES ('ses_b_2', 'prt_2', 'done-b-2', 'done', 'b', 'key-b', 'msg', 'p/m', 'opencode-tasks', 10, 10, 10, 10, 10, 7, 'reported', 'stop', '2026-03-01 12:02:30+00', 7, NULL, NULL);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (attempt_id);
ALTER TABLE ONLY public.flow_runs
    ADD CONSTRAINT flow_runs_pkey PRIMARY KEY (flow_run_id, run_id);
ALTER TABLE ONLY public.gates
    ADD CONSTRAINT gates_pkey PRIMARY KEY (gate_id);
ALTER TABLE ONLY public.inner_retries
    ADD CONSTRAINT inner_retries_pkey PRIMARY KEY (session_id, number, attempt_id);
ALTER TABLE ONLY public.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (row_key);
ALTER TABLE ONLY public.opencode_tasks_version
    ADD CONSTRAINT opencode_tasks_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.rows
    ADD CONSTRAINT rows_pkey PRIMARY KEY (run_id, row_id);
ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (run_id);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (session_id);
ALTER TABLE ONLY public.usage
    ADD CONSTRAINT usage_pkey PRIMARY KEY (session_id, step_id);
CREATE INDEX attempts_key_ended ON public.attempts USING btree (row_key, ended_at);
CREATE INDEX attempts_run_row ON public.attempts USING btree (run_id, row_id);
CREATE INDEX inner_retries_attempt ON public.inner_retries USING btree (attempt_id);
CREATE INDEX leases_owner ON public.leases USING btree (owner);
CREATE INDEX rows_key_status ON public.rows USING btree (row_key, status);
CREATE INDEX rows_run_position ON public.rows USING btree (run_id, "position");
CREATE INDEX runs_created_at ON public.runs USING btree (created_at);
CREATE INDEX sessions_run_row ON public.sessions USING btree (run_id, row_id);
CREATE INDEX usage_run_row ON public.usage USING btree (run_id, row_id);
