BEGIN TRANSACTION;
CREATE TABLE answered (
	series TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	PRIMARY KEY (series, digest)
);
INSERT INTO "answered" VALUES('id of in.csv','d');
CREATE TABLE attempts (
	attempt_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	row_id TEXT NOT NULL, 
	row_key TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	fence INTEGER NOT NULL, 
	owner TEXT NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	status TEXT NOT NULL, 
	error_type TEXT, 
	error_message TEXT, 
	exit_code INTEGER, 
	reset_time DATETIME, 
	retry_after_s FLOAT, 
	session_id TEXT, 
	node_id TEXT, 
	host TEXT, 
	backend TEXT, 
	data_dir TEXT, 
	usage_known BOOLEAN NOT NULL, gate_id TEXT, reserved_pico BIGINT DEFAULT '0' NOT NULL, settled_pico BIGINT DEFAULT '0' NOT NULL, call_most_pico BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (attempt_id)
);
INSERT INTO "attempts" VALUES('done-a-1','done','a','key-a',1,1,'machine/1/2/batch','2026-03-01 12:01:00.000000','2026-03-01 12:02:00.000000','completed',NULL,NULL,0,NULL,NULL,'ses_a_1','node','machine','server',NULL,1,'p/m#0',0,7,0);
INSERT INTO "attempts" VALUES('done-b-1','done','b','key-b',1,1,'machine/1/2/batch','2026-03-01 12:01:00.000000','2026-03-01 12:02:00.000000','failed','server_error','down',NULL,NULL,2.5,NULL,'node','machine','server',NULL,1,'p/m#0',0,5,0);
INSERT INTO "attempts" VALUES('done-b-2','done','b','key-b',2,2,'machine/1/2/batch','2026-03-01 12:02:00.000000','2026-03-01 12:03:00.000000','failed','invalid_request','too long',NULL,NULL,NULL,NULL,'node','machine','server',NULL,1,'p/m#0',0,7,0);
INSERT INTO "attempts" VALUES('open-c-1','open','c','key-c',1,1,'machine/1/2/batch','2026-03-01 12:01:00.000000',NULL,'open',NULL,NULL,NULL,NULL,NULL,NULL,'node','machine','server',NULL,0,'p/m#0',500,0,9);
CREATE TABLE flow_runs (
	flow_run_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	PRIMARY KEY (flow_run_id, run_id)
);
INSERT INTO "flow_runs" VALUES('flow-1','done');
INSERT INTO "flow_runs" VALUES('flow-2','done');
CREATE TABLE gates (
	gate_id TEXT NOT NULL, 
	model_ref TEXT NOT NULL, 
	is_open BOOLEAN NOT NULL, 
	error_type TEXT, 
	error_message TEXT, 
	reset_time DATETIME, 
	changed_at DATETIME NOT NULL, 
	failures INTEGER NOT NULL, 
	closures INTEGER NOT NULL, 
	probe_owner TEXT, 
	probe_until DATETIME, 
	suspect_run_id TEXT, 
	suspect_row_id TEXT, 
	suspect_since DATETIME, 
	PRIMARY KEY (gate_id)
);
INSERT INTO "gates" VALUES('p/m#0','p/m',0,'rate_limit','slow down','2026-03-01 12:20:00.000000','2026-03-01 12:11:00.000000',0,1,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE inner_retries (
	session_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	attempt_id TEXT NOT NULL, 
	message TEXT, 
	next_at DATETIME, 
	PRIMARY KEY (session_id, number, attempt_id)
);
INSERT INTO "inner_retries" VALUES('ses_b_1',1,'done-b-1','slow','2026-03-01 12:01:00.000000');
CREATE TABLE leases (
	row_key TEXT NOT NULL, 
	owner TEXT, 
	fence INTEGER NOT NULL, 
	until DATETIME NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (row_key)
);
INSERT INTO "leases" VALUES('key-a',NULL,1,'2026-03-01 12:02:00.000000','2026-03-01 12:01:00.000000');
INSERT INTO "leases" VALUES('key-c','machine/1/2/batch',3,'2026-03-01 12:12:00.000000','2026-03-01 12:11:00.000000');
CREATE TABLE opencode_tasks_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT opencode_tasks_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "opencode_tasks_version" VALUES('0005');
CREATE TABLE rows (
	run_id TEXT NOT NULL, 
	row_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	row_key TEXT NOT NULL, 
	prompt TEXT, 
	labels JSON, 
	status TEXT DEFAULT 'open' NOT NULL, 
	response TEXT, 
	structured JSON, 
	error_type TEXT, 
	error_message TEXT, 
	waits_until DATETIME, 
	finish_reason TEXT, 
	session_id TEXT, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	turns INTEGER, 
	model_ref TEXT, 
	input_tokens BIGINT, 
	cache_read_tokens BIGINT, 
	cache_write_tokens BIGINT, 
	output_tokens BIGINT, 
	reasoning_tokens BIGINT, 
	cost_pico BIGINT, 
	cost_source TEXT, 
	reused BOOLEAN NOT NULL, 
	source_run_id TEXT, 
	source_row_id TEXT, 
	started_at DATETIME, 
	completed_at DATETIME, 
	duration_s FLOAT, 
	PRIMARY KEY (run_id, row_id)
);
INSERT INTO "rows" VALUES('done','a',0,'key-a','prompt a','{"team": "support"}','completed','yes','{"label": "positive"}',NULL,NULL,NULL,'stop','ses_a_1',1,1,'p/m',10,10,10,10,10,7,'reported',0,NULL,NULL,'2026-03-01 12:01:00.000000','2026-03-01 12:02:00.000000',60.0);
INSERT INTO "rows" VALUES('done','b',1,'key-b','prompt b','{"team": "support"}','failed',NULL,NULL,'invalid_request','too long',NULL,NULL,NULL,2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,12,NULL,0,NULL,NULL,'2026-03-01 12:01:00.000000','2026-03-01 12:03:00.000000',120.0);
INSERT INTO "rows" VALUES('open','a',0,'key-a','prompt a','{"team": "support"}','completed','yes','{"label": "positive"}',NULL,NULL,NULL,'stop','ses_a_1',0,1,'p/m',10,10,10,10,10,7,'reported',1,'done','a',NULL,'2026-03-01 12:10:00.000000',0.0);
INSERT INTO "rows" VALUES('open','c',1,'key-c','prompt c','{"team": "support"}','open',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE runs (
	run_id TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	status TEXT NOT NULL, 
	parameters JSON, 
	model_ref TEXT, 
	backend TEXT, 
	opencode_version TEXT, 
	deployment TEXT, 
	flow_run_ids JSON, 
	input_fingerprint TEXT, 
	row_count INTEGER, 
	refresh BOOLEAN NOT NULL, waits_until DATETIME, pause_reason TEXT, max_cost_pico BIGINT, refused_pico BIGINT, reserved_pico BIGINT DEFAULT '0' NOT NULL, spent_pico BIGINT DEFAULT '0' NOT NULL, origin TEXT DEFAULT 'annotate' NOT NULL, purged_at DATETIME, series TEXT, 
	PRIMARY KEY (run_id)
);
INSERT INTO "runs" VALUES('done','2026-03-01 12:00:00.000000','2026-03-01 12:09:00.000000','completed','{"command": {"output": "out.csv"}}','p/m','server','1.18.33',NULL,'["flow-1", "flow-2"]','f',2,0,NULL,NULL,NULL,NULL,0,19,'annotate',NULL,NULL);
INSERT INTO "runs" VALUES('open','2026-03-01 12:10:00.000000',NULL,'interrupted','{"command": {"output": "out.csv"}}','p/m','server','1.18.33',NULL,'[]','f',2,0,NULL,NULL,1000000000000,NULL,500,0,'annotate',NULL,'id of in.csv');
CREATE TABLE sessions (
	session_id TEXT NOT NULL, 
	parent_id TEXT, 
	attempt_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	row_id TEXT NOT NULL, 
	messages BLOB, 
	turns INTEGER, 
	PRIMARY KEY (session_id)
);
INSERT INTO "sessions" VALUES('ses_a_1',NULL,'done-a-1','done','a',X'789C8BAE56CACC4BCB57B252A8562ACACF49053294128B8B338B4B12F34A946A7514940A128B4A8A81C2D1D54A25A91525200595A9C54AB5B1B5B1006C03141D',1);
INSERT INTO "sessions" VALUES('ses_b_1',NULL,'done-b-1','done','b',X'789C8BAE56CACC4BCB57B252A8562ACACF49053294128B8B338B4B12F34A946A7514940A128B4A8A81C2D1D54A25A91525200595A9C54AB5B1B5B1006C03141D',1);
INSERT INTO "sessions" VALUES('ses_b_2',NULL,'done-b-2','done','b',X'789C8BAE56CACC4BCB57B252A8562ACACF49053294128B8B338B4B12F34A946A7514940A128B4A8A81C2D1D54A25A91525200595A9C54AB5B1B5B1006C03141D',1);
CREATE TABLE usage (
	session_id TEXT NOT NULL, 
	step_id TEXT NOT NULL, 
	attempt_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	row_id TEXT NOT NULL, 
	row_key TEXT NOT NULL, 
	message_id TEXT, 
	model_ref TEXT, 
	agent TEXT, 
	input_tokens BIGINT, 
	cache_read_tokens BIGINT, 
	cache_write_tokens BIGINT, 
	output_tokens BIGINT, 
	reasoning_tokens BIGINT, 
	cost_pico BIGINT, 
	cost_source TEXT NOT NULL, 
	finish_reason TEXT, 
	ended_at DATETIME, cost_reported_pico BIGINT, cost_computed_pico BIGINT, price_source TEXT, 
	PRIMARY KEY (session_id, step_id)
);
INSERT INTO "usage" VALUES('ses_a_1','prt_1','done-a-1','done','a','key-a','msg','p/m','opencode-tasks',10,10,10,10,10,7,'reported','stop','2026-03-01 12:01:30.000000',7,NULL,NULL);
INSERT INTO "usage" VALUES('ses_b_1','prt_1','done-b-1','done','b','key-b','msg','p/m','opencode-tasks',10,10,10,10,10,5,'reported','stop','2026-03-01 12:01:30.000000',5,NULL,NULL);
INSERT INTO "usage" VALUES('ses_b_2','prt_2','done-b-2','done','b','key-b','msg','p/m','opencode-tasks',10,10,10,10,10,7,'reported','stop','2026-03-01 12:02:30.000000',7,NULL,NULL);
CREATE INDEX runs_created_at ON runs (created_at);
CREATE INDEX rows_run_position ON rows (run_id, position);
CREATE INDEX rows_key_status ON rows (row_key, status);
CREATE INDEX attempts_run_row ON attempts (run_id, row_id);
CREATE INDEX inner_retries_attempt ON inner_retries (attempt_id);
CREATE INDEX sessions_run_row ON sessions (run_id, row_id);
CREATE INDEX usage_run_row ON usage (run_id, row_id);
CREATE INDEX leases_owner ON leases (owner);
CREATE INDEX attempts_key_ended ON attempts (row_key, ended_at);
CREATE INDEX sessions_attempt ON sessions (attempt_id);
CREATE VIEW cost_items AS SELECT date(coalesce(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at)) AS day, coalesce(usage.model_ref, rows.model_ref, runs.model_ref) AS model, runs.deployment, runs.run_id AS run, runs.origin, rows.row_id, rows.status AS row_status, rows.reused, attempts.attempt_id, attempts.status AS attempt_status, attempts.error_type, usage.session_id, usage.step_id, usage.agent, usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens, usage.reasoning_tokens, usage.cost_pico, usage.cost_source, usage.cost_reported_pico, usage.cost_computed_pico, usage.price_source, usage.ended_at, rows.labels 
FROM rows JOIN runs ON runs.run_id = rows.run_id LEFT OUTER JOIN attempts ON attempts.run_id = rows.run_id AND attempts.row_id = rows.row_id LEFT OUTER JOIN usage ON usage.run_id = attempts.run_id AND usage.row_id = attempts.row_id AND usage.attempt_id = attempts.attempt_id;
CREATE VIEW cost_by_day AS SELECT items.day, count(DISTINCT (items.run || '/' || items.row_id)) AS rows, count(items.step_id) AS steps, CASE WHEN (count(items.input_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.input_tokens), 0) AS BIGINT) END AS input_tokens, CASE WHEN (count(items.cache_read_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_read_tokens), 0) AS BIGINT) END AS cache_read_tokens, CASE WHEN (count(items.cache_write_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_write_tokens), 0) AS BIGINT) END AS cache_write_tokens, CASE WHEN (count(items.output_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.output_tokens), 0) AS BIGINT) END AS output_tokens, CASE WHEN (count(items.reasoning_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.reasoning_tokens), 0) AS BIGINT) END AS reasoning_tokens, CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END AS cost_pico, CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) AS known_cost_pico, CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END AS failed_cost_pico, CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) AS known_failed_cost_pico, (CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END / 1e12) AS cost_usd, (CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) / 1e12) AS known_cost_usd, (CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END / 1e12) AS failed_cost_usd 
FROM (SELECT date(coalesce(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at)) AS day, coalesce(usage.model_ref, rows.model_ref, runs.model_ref) AS model, runs.deployment AS deployment, runs.run_id AS run, runs.origin AS origin, rows.row_id AS row_id, rows.status AS row_status, rows.reused AS reused, attempts.attempt_id AS attempt_id, attempts.status AS attempt_status, attempts.error_type AS error_type, usage.session_id AS session_id, usage.step_id AS step_id, usage.agent AS agent, usage.input_tokens AS input_tokens, usage.cache_read_tokens AS cache_read_tokens, usage.cache_write_tokens AS cache_write_tokens, usage.output_tokens AS output_tokens, usage.reasoning_tokens AS reasoning_tokens, usage.cost_pico AS cost_pico, usage.cost_source AS cost_source, usage.cost_reported_pico AS cost_reported_pico, usage.cost_computed_pico AS cost_computed_pico, usage.price_source AS price_source, usage.ended_at AS ended_at, rows.labels AS labels 
FROM rows JOIN runs ON runs.run_id = rows.run_id LEFT OUTER JOIN attempts ON attempts.run_id = rows.run_id AND attempts.row_id = rows.row_id LEFT OUTER JOIN usage ON usage.run_id = attempts.run_id AND usage.row_id = attempts.row_id AND usage.attempt_id = attempts.attempt_id) AS items GROUP BY items.day;
CREATE VIEW cost_by_model AS SELECT items.model, count(DISTINCT (items.run || '/' || items.row_id)) AS rows, count(items.step_id) AS steps, CASE WHEN (count(items.input_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.input_tokens), 0) AS BIGINT) END AS input_tokens, CASE WHEN (count(items.cache_read_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_read_tokens), 0) AS BIGINT) END AS cache_read_tokens, CASE WHEN (count(items.cache_write_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_write_tokens), 0) AS BIGINT) END AS cache_write_tokens, CASE WHEN (count(items.output_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.output_tokens), 0) AS BIGINT) END AS output_tokens, CASE WHEN (count(items.reasoning_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.reasoning_tokens), 0) AS BIGINT) END AS reasoning_tokens, CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END AS cost_pico, CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) AS known_cost_pico, CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END AS failed_cost_pico, CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) AS known_failed_cost_pico, (CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END / 1e12) AS cost_usd, (CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) / 1e12) AS known_cost_usd, (CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END / 1e12) AS failed_cost_usd 
FROM (SELECT date(coalesce(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at)) AS day, coalesce(usage.model_ref, rows.model_ref, runs.model_ref) AS model, runs.deployment AS deployment, runs.run_id AS run, runs.origin AS origin, rows.row_id AS row_id, rows.status AS row_status, rows.reused AS reused, attempts.attempt_id AS attempt_id, attempts.status AS attempt_status, attempts.error_type AS error_type, usage.session_id AS session_id, usage.step_id AS step_id, usage.agent AS agent, usage.input_tokens AS input_tokens, usage.cache_read_tokens AS cache_read_tokens, usage.cache_write_tokens AS cache_write_tokens, usage.output_tokens AS output_tokens, usage.reasoning_tokens AS reasoning_tokens, usage.cost_pico AS cost_pico, usage.cost_source AS cost_source, usage.cost_reported_pico AS cost_reported_pico, usage.cost_computed_pico AS cost_computed_pico, usage.price_source AS price_source, usage.ended_at AS ended_at, rows.labels AS labels 
FROM rows JOIN runs ON runs.run_id = rows.run_id LEFT OUTER JOIN attempts ON attempts.run_id = rows.run_id AND attempts.row_id = rows.row_id LEFT OUTER JOIN usage ON usage.run_id = attempts.run_id AND usage.row_id = attempts.row_id AND usage.attempt_id = attempts.attempt_id) AS items GROUP BY items.model;
CREATE VIEW cost_by_deployment AS SELECT items.deployment, count(DISTINCT (items.run || '/' || items.row_id)) AS rows, count(items.step_id) AS steps, CASE WHEN (count(items.input_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.input_tokens), 0) AS BIGINT) END AS input_tokens, CASE WHEN (count(items.cache_read_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_read_tokens), 0) AS BIGINT) END AS cache_read_tokens, CASE WHEN (count(items.cache_write_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_write_tokens), 0) AS BIGINT) END AS cache_write_tokens, CASE WHEN (count(items.output_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.output_tokens), 0) AS BIGINT) END AS output_tokens, CASE WHEN (count(items.reasoning_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.reasoning_tokens), 0) AS BIGINT) END AS reasoning_tokens, CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END AS cost_pico, CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) AS known_cost_pico, CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END AS failed_cost_pico, CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) AS known_failed_cost_pico, (CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END / 1e12) AS cost_usd, (CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) / 1e12) AS known_cost_usd, (CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END / 1e12) AS failed_cost_usd 
FROM (SELECT date(coalesce(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at)) AS day, coalesce(usage.model_ref, rows.model_ref, runs.model_ref) AS model, runs.deployment AS deployment, runs.run_id AS run, runs.origin AS origin, rows.row_id AS row_id, rows.status AS row_status, rows.reused AS reused, attempts.attempt_id AS attempt_id, attempts.status AS attempt_status, attempts.error_type AS error_type, usage.session_id AS session_id, usage.step_id AS step_id, usage.agent AS agent, usage.input_tokens AS input_tokens, usage.cache_read_tokens AS cache_read_tokens, usage.cache_write_tokens AS cache_write_tokens, usage.output_tokens AS output_tokens, usage.reasoning_tokens AS reasoning_tokens, usage.cost_pico AS cost_pico, usage.cost_source AS cost_source, usage.cost_reported_pico AS cost_reported_pico, usage.cost_computed_pico AS cost_computed_pico, usage.price_source AS price_source, usage.ended_at AS ended_at, rows.labels AS labels 
FROM rows JOIN runs ON runs.run_id = rows.run_id LEFT OUTER JOIN attempts ON attempts.run_id = rows.run_id AND attempts.row_id = rows.row_id LEFT OUTER JOIN usage ON usage.run_id = attempts.run_id AND usage.row_id = attempts.row_id AND usage.attempt_id = attempts.attempt_id) AS items GROUP BY items.deployment;
CREATE VIEW cost_by_run AS SELECT runs.created_at, runs.ended_at, runs.status, runs.origin, runs.deployment, runs.model_ref AS model, sums.run, sums.rows, sums.steps, sums.input_tokens, sums.cache_read_tokens, sums.cache_write_tokens, sums.output_tokens, sums.reasoning_tokens, sums.cost_pico, sums.known_cost_pico, sums.failed_cost_pico, sums.known_failed_cost_pico, sums.cost_usd, sums.known_cost_usd, sums.failed_cost_usd 
FROM runs JOIN (SELECT items.run AS run, count(DISTINCT (items.run || '/' || items.row_id)) AS rows, count(items.step_id) AS steps, CASE WHEN (count(items.input_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.input_tokens), 0) AS BIGINT) END AS input_tokens, CASE WHEN (count(items.cache_read_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_read_tokens), 0) AS BIGINT) END AS cache_read_tokens, CASE WHEN (count(items.cache_write_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_write_tokens), 0) AS BIGINT) END AS cache_write_tokens, CASE WHEN (count(items.output_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.output_tokens), 0) AS BIGINT) END AS output_tokens, CASE WHEN (count(items.reasoning_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.reasoning_tokens), 0) AS BIGINT) END AS reasoning_tokens, CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END AS cost_pico, CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) AS known_cost_pico, CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END AS failed_cost_pico, CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) AS known_failed_cost_pico, (CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END / 1e12) AS cost_usd, (CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) / 1e12) AS known_cost_usd, (CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END / 1e12) AS failed_cost_usd 
FROM (SELECT date(coalesce(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at)) AS day, coalesce(usage.model_ref, rows.model_ref, runs.model_ref) AS model, runs.deployment AS deployment, runs.run_id AS run, runs.origin AS origin, rows.row_id AS row_id, rows.status AS row_status, rows.reused AS reused, attempts.attempt_id AS attempt_id, attempts.status AS attempt_status, attempts.error_type AS error_type, usage.session_id AS session_id, usage.step_id AS step_id, usage.agent AS agent, usage.input_tokens AS input_tokens, usage.cache_read_tokens AS cache_read_tokens, usage.cache_write_tokens AS cache_write_tokens, usage.output_tokens AS output_tokens, usage.reasoning_tokens AS reasoning_tokens, usage.cost_pico AS cost_pico, usage.cost_source AS cost_source, usage.cost_reported_pico AS cost_reported_pico, usage.cost_computed_pico AS cost_computed_pico, usage.price_source AS price_source, usage.ended_at AS ended_at, rows.labels AS labels 
FROM rows JOIN runs ON runs.run_id = rows.run_id LEFT OUTER JOIN attempts ON attempts.run_id = rows.run_id AND attempts.row_id = rows.row_id LEFT OUTER JOIN usage ON usage.run_id = attempts.run_id AND usage.row_id = attempts.row_id AND usage.attempt_id = attempts.attempt_id) AS items GROUP BY items.run) AS sums ON sums.run = runs.run_id;
CREATE VIEW cost_by_label AS SELECT pairs."key" AS label, pairs.value AS label_value, count(DISTINCT (items.run || '/' || items.row_id)) AS rows, count(items.step_id) AS steps, CASE WHEN (count(items.input_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.input_tokens), 0) AS BIGINT) END AS input_tokens, CASE WHEN (count(items.cache_read_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_read_tokens), 0) AS BIGINT) END AS cache_read_tokens, CASE WHEN (count(items.cache_write_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.cache_write_tokens), 0) AS BIGINT) END AS cache_write_tokens, CASE WHEN (count(items.output_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.output_tokens), 0) AS BIGINT) END AS output_tokens, CASE WHEN (count(items.reasoning_tokens) = count(items.step_id)) THEN CAST(coalesce(sum(items.reasoning_tokens), 0) AS BIGINT) END AS reasoning_tokens, CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END AS cost_pico, CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) AS known_cost_pico, CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END AS failed_cost_pico, CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) AS known_failed_cost_pico, (CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END / 1e12) AS cost_usd, (CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) / 1e12) AS known_cost_usd, (CASE WHEN (count(CASE WHEN (items.attempt_status != 'completed') THEN items.step_id END) != count(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico END)) THEN NULL ELSE CAST(coalesce(sum(CASE WHEN (items.attempt_status != 'completed') THEN items.cost_pico ELSE 0 END), 0) AS BIGINT) END / 1e12) AS failed_cost_usd 
FROM (SELECT date(coalesce(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at)) AS day, coalesce(usage.model_ref, rows.model_ref, runs.model_ref) AS model, runs.deployment AS deployment, runs.run_id AS run, runs.origin AS origin, rows.row_id AS row_id, rows.status AS row_status, rows.reused AS reused, attempts.attempt_id AS attempt_id, attempts.status AS attempt_status, attempts.error_type AS error_type, usage.session_id AS session_id, usage.step_id AS step_id, usage.agent AS agent, usage.input_tokens AS input_tokens, usage.cache_read_tokens AS cache_read_tokens, usage.cache_write_tokens AS cache_write_tokens, usage.output_tokens AS output_tokens, usage.reasoning_tokens AS reasoning_tokens, usage.cost_pico AS cost_pico, usage.cost_source AS cost_source, usage.cost_reported_pico AS cost_reported_pico, usage.cost_computed_pico AS cost_computed_pico, usage.price_source AS price_source, usage.ended_at AS ended_at, rows.labels AS labels 
FROM rows JOIN runs ON runs.run_id = rows.run_id LEFT OUTER JOIN attempts ON attempts.run_id = rows.run_id AND attempts.row_id = rows.row_id LEFT OUTER JOIN usage ON usage.run_id = attempts.run_id AND usage.row_id = attempts.row_id AND usage.attempt_id = attempts.attempt_id) AS items, json_each(items.labels) AS pairs GROUP BY pairs."key", pairs.value;
CREATE VIEW failures_by_type AS SELECT items.day, items.model, items.error_type, count(DISTINCT items.attempt_id) AS attempts, count(DISTINCT (items.run || '/' || items.row_id)) AS rows, count(DISTINCT CASE WHEN (items.row_status = 'failed') THEN (items.run || '/' || items.row_id) END) AS failed_rows, CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END AS cost_pico, CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) AS known_cost_pico, (CASE WHEN (count(items.cost_pico) = count(items.step_id)) THEN CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) END / 1e12) AS cost_usd, (CAST(coalesce(sum(items.cost_pico), 0) AS BIGINT) / 1e12) AS known_cost_usd 
FROM (SELECT date(coalesce(usage.ended_at, attempts.started_at, rows.completed_at, runs.created_at)) AS day, coalesce(usage.model_ref, rows.model_ref, runs.model_ref) AS model, runs.deployment AS deployment, runs.run_id AS run, runs.origin AS origin, rows.row_id AS row_id, rows.status AS row_status, rows.reused AS reused, attempts.attempt_id AS attempt_id, attempts.status AS attempt_status, attempts.error_type AS error_type, usage.session_id AS session_id, usage.step_id AS step_id, usage.agent AS agent, usage.input_tokens AS input_tokens, usage.cache_read_tokens AS cache_read_tokens, usage.cache_write_tokens AS cache_write_tokens, usage.output_tokens AS output_tokens, usage.reasoning_tokens AS reasoning_tokens, usage.cost_pico AS cost_pico, usage.cost_source AS cost_source, usage.cost_reported_pico AS cost_reported_pico, usage.cost_computed_pico AS cost_computed_pico, usage.price_source AS price_source, usage.ended_at AS ended_at, rows.labels AS labels 
FROM rows JOIN runs ON runs.run_id = rows.run_id LEFT OUTER JOIN attempts ON attempts.run_id = rows.run_id AND attempts.row_id = rows.row_id LEFT OUTER JOIN usage ON usage.run_id = attempts.run_id AND usage.row_id = attempts.row_id AND usage.attempt_id = attempts.attempt_id 
WHERE attempts.error_type IS NOT NULL) AS items GROUP BY items.day, items.model, items.error_type;
CREATE VIEW unreported_attempts AS SELECT date(attempts.started_at) AS day, attempts.run_id AS run, attempts.row_id, attempts.attempt_id, attempts.attempt, attempts.started_at, attempts.status, attempts.error_type, CAST(CASE WHEN (attempts.call_most_pico * CASE WHEN ((SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) > 1) THEN (SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) ELSE 1 END > attempts.reserved_pico) THEN attempts.call_most_pico * CASE WHEN ((SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) > 1) THEN (SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) ELSE 1 END ELSE attempts.reserved_pico END AS BIGINT) AS at_most_pico, (CAST(CASE WHEN (attempts.call_most_pico * CASE WHEN ((SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) > 1) THEN (SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) ELSE 1 END > attempts.reserved_pico) THEN attempts.call_most_pico * CASE WHEN ((SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) > 1) THEN (SELECT count(*) AS count_1 
FROM sessions 
WHERE sessions.attempt_id = attempts.attempt_id) ELSE 1 END ELSE attempts.reserved_pico END AS BIGINT) / 1e12) AS at_most_usd 
FROM attempts 
WHERE attempts.usage_known IS 0;
CREATE INDEX runs_series ON runs (series);
COMMIT;
