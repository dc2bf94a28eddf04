BEGIN TRANSACTION;
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
	usage_known BOOLEAN NOT NULL, 
	PRIMARY KEY (attempt_id)
);
INSERT INTO "attempts" VALUES('done-a-1','done','a','key-a',1,1,'machine/1/2/batch','2026-03-01 12:01:00.000000','2026-03-01 12:02:00.000000','completed',NULL,NULL,0,NULL,NULL,'ses_a_1','node','machine','server',NULL,1);
INSERT INTO "attempts" VALUES('done-b-1','done','b','key-b',1,1,'machine/1/2/batch','2026-03-01 12:01:00.000000','2026-03-01 12:02:00.000000','failed','server_error','down',NULL,NULL,2.5,NULL,'node','machine','server',NULL,1);
INSERT INTO "attempts" VALUES('done-b-2','done','b','key-b',2,2,'machine/1/2/batch','2026-03-01 12:02:00.000000','2026-03-01 12:03:00.000000','failed','invalid_request','too long',NULL,NULL,NULL,NULL,'node','machine','server',NULL,1);
INSERT INTO "attempts" VALUES('open-c-1','open','c','key-c',1,1,'machine/1/2/batch','2026-03-01 12:01:00.000000',NULL,'open',NULL,NULL,NULL,NULL,NULL,NULL,'node','machine','server',NULL,0);
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
INSERT INTO "opencode_tasks_version" VALUES('0001');
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
	refresh BOOLEAN NOT NULL, 
	PRIMARY KEY (run_id)
);
INSERT INTO "runs" VALUES('done','2026-03-01 12:00:00.000000','2026-03-01 12:09:00.000000','completed','{"command": {"output": "out.csv"}}','p/m','server','1.18.33',NULL,'["flow-1", "flow-2"]','f',2,0);
INSERT INTO "runs" VALUES('open','2026-03-01 12:10:00.000000',NULL,'interrupted','{"command": {"output": "out.csv"}}','p/m','server','1.18.33',NULL,'[]','f',2,0);
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
	ended_at DATETIME, 
	PRIMARY KEY (session_id, step_id)
);
INSERT INTO "usage" VALUES('ses_a_1','prt_1','done-a-1','done','a','key-a','msg','p/m','opencode-tasks',10,10,10,10,10,7,'reported','stop','2026-03-01 12:01:30.000000');
INSERT INTO "usage" VALUES('ses_b_1','prt_1','done-b-1','done','b','key-b','msg','p/m','opencode-tasks',10,10,10,10,10,5,'reported','stop','2026-03-01 12:01:30.000000');
INSERT INTO "usage" VALUES('ses_b_2','prt_2','done-b-2','done','b','key-b','msg','p/m','opencode-tasks',10,10,10,10,10,7,'reported','stop','2026-03-01 12:02:30.000000');
CREATE INDEX runs_created_at ON runs (created_at);
CREATE INDEX rows_run_position ON rows (run_id, position);
CREATE INDEX rows_key_status ON rows (row_key, status);
CREATE INDEX attempts_run_row ON attempts (run_id, row_id);
CREATE INDEX inner_retries_attempt ON inner_retries (attempt_id);
CREATE INDEX sessions_run_row ON sessions (run_id, row_id);
CREATE INDEX usage_run_row ON usage (run_id, row_id);
CREATE INDEX leases_owner ON leases (owner);
COMMIT;
