{{- define "reprise.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "reprise.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Of the servers' pods: Redis' have another component. */}}
{{- define "reprise.serverSelector" -}}
{{ include "reprise.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "reprise.redisSelector" -}}
{{ include "reprise.selector" . }}
app.kubernetes.io/component: redis
{{- end -}}

{{- define "reprise.labels" -}}
{{ include "reprise.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "reprise.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "reprise.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "reprise.image" -}}
{{- $name := .Values.image.repository -}}
{{- if .Values.image.registry -}}{{- $name = printf "%s/%s" .Values.image.registry $name -}}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What a server needs after SIGTERM: running requests, then up to 10 s for the write-behind queue, and a margin. */}}
{{- define "reprise.leastGrace" -}}
{{- add .Values.preStopSeconds .Values.drainSeconds 25 -}}
{{- end -}}

{{- define "reprise.grace" -}}
{{- default (include "reprise.leastGrace" . | int) .Values.terminationGracePeriodSeconds -}}
{{- end -}}

{{- define "reprise.modelClaim" -}}
{{- default (printf "%s-models" (include "reprise.fullname" .)) .Values.modelVolume.existingClaim -}}
{{- end -}}

{{/* What the schema cannot say: values that do not go together. */}}
{{- define "reprise.validate" -}}
{{- $v := .Values -}}
{{- $most := ternary $v.autoscaling.maxReplicas $v.replicas $v.autoscaling.enabled | int -}}
{{- if and (eq $v.redis.mode "none") (gt $most 1) -}}
{{- fail "redis.mode none keeps sessions in the memory of one server; allowed with it: replicas 1 and no autoscaling" -}}
{{- end -}}
{{- if and (eq $v.redis.mode "external") (not $v.redis.external.url) -}}
{{- fail "redis.mode external needs redis.external.url" -}}
{{- end -}}
{{- if and $v.redis.external.user (not $v.redis.external.existingSecret) -}}
{{- fail "redis.external.user needs redis.external.existingSecret" -}}
{{- end -}}
{{- $rediss := hasPrefix "rediss" $v.redis.external.url -}}
{{- if and (or $v.redis.external.tls.existingSecret $v.redis.external.tls.serverName) (not $rediss) -}}
{{- fail "redis.external.tls needs a rediss:// URL" -}}
{{- end -}}
{{- if and $v.redis.external.tls.clientCertificate (not $v.redis.external.tls.existingSecret) -}}
{{- fail "redis.external.tls.clientCertificate needs redis.external.tls.existingSecret" -}}
{{- end -}}
{{- if and $v.terminationGracePeriodSeconds (lt (int $v.terminationGracePeriodSeconds) (int (include "reprise.leastGrace" .))) -}}
{{- fail (printf "terminationGracePeriodSeconds %d would kill servers that drain; allowed: 0, or at least %s" (int $v.terminationGracePeriodSeconds) (include "reprise.leastGrace" .)) -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.existingSecret) -}}
{{- fail "tls.enabled needs tls.existingSecret" -}}
{{- end -}}
{{- if and (not $v.tls.enabled) (or $v.tls.clientCertificates $v.tls.existingSecret) -}}
{{- fail "tls.existingSecret and tls.clientCertificates need tls.enabled" -}}
{{- end -}}
{{- if and $v.tls.certificateTenant (not $v.tls.clientCertificates) -}}
{{- fail "tls.certificateTenant needs tls.clientCertificates" -}}
{{- end -}}
{{- $jwt := $v.auth.jwt -}}
{{- if and (or $jwt.jwksConfigMap $jwt.issuer $jwt.audience) (not (and $jwt.jwksConfigMap $jwt.issuer $jwt.audience)) -}}
{{- fail "auth.jwt needs jwksConfigMap, issuer and audience" -}}
{{- end -}}
{{- if and (eq $v.profile "production") (not (and $v.tls.enabled (or $v.auth.tokensSecret $jwt.jwksConfigMap $v.tls.clientCertificates))) -}}
{{- fail "profile production needs tls.enabled, and auth.tokensSecret, auth.jwt or tls.clientCertificates" -}}
{{- end -}}
{{- if and (eq $v.probes.type "grpc") $v.tls.enabled -}}
{{- fail "probes.type grpc cannot speak TLS; allowed with tls.enabled: http" -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would count everything twice; allowed: one of them" -}}
{{- end -}}
{{- if and $v.modelFetch.enabled (or (not $v.modelFetch.image) (not $v.modelFetch.command)) -}}
{{- fail "modelFetch.enabled needs modelFetch.image and modelFetch.command" -}}
{{- end -}}
{{- if and $v.modelFetch.enabled (eq $v.modelVolume.type "none") -}}
{{- fail "modelFetch.enabled needs a modelVolume.type other than none" -}}
{{- end -}}
{{- if and (eq $v.modelVolume.type "emptyDir") (not $v.modelFetch.enabled) -}}
{{- fail "modelVolume.type emptyDir needs modelFetch.enabled, or it would stay empty" -}}
{{- end -}}
{{- if and (eq $v.modelVolume.type "hostPath") (not $v.modelVolume.hostPath) -}}
{{- fail "modelVolume.type hostPath needs modelVolume.hostPath" -}}
{{- end -}}
{{- if and (gt $most 1) (eq $v.modelVolume.type "claim") (not $v.modelVolume.existingClaim) (not (or (has "ReadWriteMany" $v.modelVolume.accessModes) (has "ReadOnlyMany" $v.modelVolume.accessModes))) -}}
{{- fail "several servers share the claim of modelVolume; allowed in accessModes: ReadOnlyMany or ReadWriteMany" -}}
{{- end -}}
{{- end -}}
